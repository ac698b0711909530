"""Every kernel is compiled for three architectures, without a GPU; none may spill or take too many registers."""

from __future__ import annotations

import pytest

from pagesim.errors import BackendError
from pagesim_backends.cuda import kernels, offline
from pagesim_backends.cuda.kernels import Addressing, Form, Variant
from pagesim_backends.cuda.offline import Resources

ARCHITECTURES = ["sm_80", "sm_89", "sm_90"]

needs_compiler = pytest.mark.skipif(
    offline.find_compiler() is None, reason="needs a CUDA compiler: pip install nvidia-cuda-nvrtc, or nvcc"
)


def check(variants: list[Variant], architecture: str) -> None:
    """Compile each variant once and fail where it spills or takes more registers than its occupancy allows."""
    for variant in dict.fromkeys(variants):
        found = offline.compile_cubin(variant, architecture)
        assert (found.spilled_bytes, found.stack_bytes) == (0, 0), variant
        assert found.registers <= variant.max_registers, variant


def decode_variants(head_dim: int) -> list[Variant]:
    """Return every combination of type, tiles of heads and addressing in one form, and every other form in one of them.

    Forms of as many warps have the same bound of registers, so what one of them shows holds for the others too;
    all combinations are compiled by the test that is slow.
    """
    found = []
    for group in (1, kernels.MAX_GROUP):  # one and two tiles of heads
        first, *others = kernels.forms(group, head_dim)
        found += [
            kernels.decode_variant(head_dim, bf16, group, first, way) for bf16 in (False, True) for way in Addressing
        ]
        for index, form in enumerate(others):
            way = Addressing(index % len(Addressing))
            found.append(kernels.decode_variant(head_dim, index % 2 == 0, group, form, way))
    return found


@needs_compiler
@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decode_attention_fits_the_registers(architecture: str, head_dim: int) -> None:
    check(decode_variants(head_dim), architecture)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_variant_of_decode_attention(architecture: str, head_dim: int) -> None:
    check(
        [
            kernels.decode_variant(head_dim, bf16, group, form, way)
            for bf16 in (False, True)
            for group in (1, kernels.MAX_GROUP)
            for form in kernels.forms(group, head_dim)
            for way in Addressing
        ],
        architecture,
    )


@needs_compiler
@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefill_attention_fits_the_registers(architecture: str, head_dim: int) -> None:
    ways = (Addressing.PAGED, Addressing.CONTIGUOUS)
    check([kernels.prefill_variant(head_dim, bf16, way) for bf16 in (False, True) for way in ways], architecture)


@needs_compiler
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_fills_and_moves_the_cache_fits_the_registers(architecture: str) -> None:
    names = ("draw_tokens", "write_tokens", "move_blocks", "read_all")
    check([kernels.cache_variant(name, bf16) for bf16 in (False, True) for name in names], architecture)


@needs_compiler
def test_what_does_not_compile_is_told_in_the_compilers_words() -> None:
    broken = kernels.decode_variant(256, False, 16, Form(4, 2), Addressing.PAGED)
    macros = tuple((name, 2 if name == "HEAD_TILES" else value) for name, value in broken.macros)
    with pytest.raises(BackendError, match=r"paged_attention.cu does not compile for sm_90: (.|\n)*two tiles of heads"):
        offline.compile_cubin(Variant(broken.source, broken.kernel, macros), "sm_90")


def test_the_assemblers_report_is_read() -> None:
    log = """ptxas info    : Function properties for other
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
ptxas info    : Function properties for decode_attention
    16 bytes stack frame, 24 bytes spill stores, 36 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 16 bytes smem"""
    assert offline.parse_resources(log, "decode_attention") == Resources(168, 60, 16)
    with pytest.raises(BackendError, match="reports nothing about prefill_attention"):
        offline.parse_resources(log, "prefill_attention")


def test_forms_keep_eight_or_twelve_warps_on_a_multiprocessor() -> None:
    for head_dim in kernels.HEAD_DIMS:
        for group in range(1, kernels.MAX_GROUP + 1):
            for form in kernels.forms(group, head_dim):
                assert form.num_warps * form.blocks_per_sm in (8, 12)
                assert (
                    form.num_warps
                    * form.blocks_per_sm
                    * 32
                    * kernels.decode_variant(head_dim, False, group, form, Addressing.PAGED).max_registers
                    <= 65536
                )


def test_parameters_have_the_size_that_the_kernels_expect() -> None:
    sizes = [
        kernels.TOKEN_PARAMS,
        kernels.WRITE_PARAMS,
        kernels.MOVE_PARAMS,
        kernels.READ_PARAMS,
        kernels.DECODE_PARAMS,
        kernels.PREFILL_PARAMS,
    ]
    assert [dtype.itemsize for dtype in sizes] == [56, 80, 80, 24, 120, 88]
