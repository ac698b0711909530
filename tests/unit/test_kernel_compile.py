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


def decode_variants() -> list[Variant]:
    """Return every head size with one and two tiles of heads, and each addressing and form once."""
    found = []
    for head_dim in kernels.HEAD_DIMS:
        for group in (1, 16):
            form = kernels.forms(group, head_dim)[0]
            found.append(kernels.decode_variant(head_dim, group == 1, group, form, Addressing.PAGED))
        for way in (Addressing.PAGED_SMALL, Addressing.CONTIGUOUS):
            found.append(kernels.decode_variant(head_dim, True, 4, kernels.forms(4, head_dim)[0], way))
    found += [kernels.decode_variant(128, False, 4, form, Addressing.PAGED) for form in kernels.forms(4, 128)]
    return list(dict.fromkeys(found))


def other_variants() -> list[Variant]:
    """Return prefill attention for every head size and addressing, and the kernels that fill and move the cache."""
    found = [kernels.prefill_variant(head_dim, head_dim % 32 == 0, Addressing.PAGED) for head_dim in kernels.HEAD_DIMS]
    found.append(kernels.prefill_variant(256, False, Addressing.CONTIGUOUS))
    return found + [
        kernels.cache_variant(name, True) for name in ("draw_tokens", "write_tokens", "move_blocks", "read_all")
    ]


def name_of(variant: Variant) -> str:
    return "-".join([variant.source, *(f"{name}={value}" for name, value in variant.macros)])


@needs_compiler
@pytest.mark.parametrize("variant", decode_variants() + other_variants(), ids=name_of)
def test_fits_the_registers_on_hopper_without_spilling(variant: Variant) -> None:
    found = offline.compile_cubin(variant, "sm_90")
    assert found.spilled_bytes == 0
    assert found.stack_bytes == 0
    assert found.registers <= variant.max_registers


@needs_compiler
@pytest.mark.parametrize("architecture", ["sm_80", "sm_89"])
@pytest.mark.parametrize("head_dim", [128, 256])
def test_fits_the_registers_on_ampere_and_ada(head_dim: int, architecture: str) -> None:
    for group in (1, 16):
        form = kernels.forms(group, head_dim)[0]
        variant = kernels.decode_variant(head_dim, True, group, form, Addressing.PAGED)
        found = offline.compile_cubin(variant, architecture)
        assert (found.spilled_bytes, found.stack_bytes) == (0, 0), variant
        assert found.registers <= variant.max_registers
    found = offline.compile_cubin(kernels.prefill_variant(head_dim, False, Addressing.PAGED), architecture)
    assert (found.spilled_bytes, found.stack_bytes) == (0, 0)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
def test_every_variant_of_decode_attention(head_dim: int, architecture: str) -> None:
    for bf16 in (False, True):
        for group in (1, 16):
            for form in kernels.forms(group, head_dim):
                for way in Addressing:
                    variant = kernels.decode_variant(head_dim, bf16, group, form, way)
                    found = offline.compile_cubin(variant, architecture)
                    assert (found.spilled_bytes, found.stack_bytes) == (0, 0), variant
                    assert found.registers <= variant.max_registers


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
        kernels.DECODE_PARAMS,
        kernels.PREFILL_PARAMS,
    ]
    assert [dtype.itemsize for dtype in sizes] == [56, 80, 80, 120, 88]
