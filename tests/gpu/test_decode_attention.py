"""Decode attention against float64: every type, head size, group and block size, every form, split and whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pagesim.errors import BackendError
from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.kernels import Addressing, Form
from pagesim_backends.cuda.plan import DecodePlan, split_evenly
from tests.gpu.oracle import NAN_BITS, TOLERANCE, attention, error, from_bits, make_cache, to_bits

cupy = pytest.importorskip("cupy", reason="needs CuPy (the extra cuda12 or cuda13)")

LENGTHS = [1, 15, 16, 17, 40, 333, 1000]
NUM_KV_HEADS = 2


class Kernel:
    """Decode attention with its buffers, for one model."""

    def __init__(self, group: int, head_dim: int, *, bf16: bool, addressing: Addressing, kv_heads: int = NUM_KV_HEADS):
        from pagesim_backends.cuda.attention import Decode, DecodeBuffers
        from pagesim_backends.cuda.backend import Buffers

        self.decode = Decode(group * kv_heads, kv_heads, head_dim, bf16=bf16, addressing=addressing)
        self.memory = Buffers()
        self.buffers = DecodeBuffers(self.memory, head_dim)
        self.stream = cupy.cuda.Stream(non_blocking=True)

    def run(self, plan: DecodePlan, cache: Any, query: Any, output: Any) -> None:
        self.buffers.reserve(max(plan.num_slots, 1), plan.item_heads)
        items = self.memory.send("items", plan.items, self.stream)
        cupy.cuda.Device().synchronize()
        self.decode.launch(
            plan.form,
            items,
            len(plan.items),
            self.buffers,
            cache.view,
            query.data.ptr,
            output.data.ptr,
            cache.block_tables.data.ptr,
            self.stream,
        )
        self.stream.synchronize()


def worst_error(
    rng: np.random.Generator,
    kernel: Kernel,
    lengths: list[int],
    *,
    bf16: bool,
    block_size: int,
    form: Form | None = None,
    num_splits: int = 1,
    contiguous: bool = False,
) -> float:
    """Run one batch twice and return the worst error of a sequence; outputs are poisoned before each run."""
    decode = kernel.decode
    cache = make_cache(
        rng,
        lengths,
        num_kv_heads=decode.heads.num_kv_heads,
        head_dim=decode.head_dim,
        block_size=block_size,
        bf16=bf16,
        contiguous=contiguous,
    )
    shape = (len(lengths), decode.num_query_heads, decode.head_dim)
    query = to_bits(cupy.asarray(rng.standard_normal(shape, np.float32)), bf16)
    chunks = np.array(lengths, np.int64)
    if form is None:
        plan = decode.planner.plan(chunks, cache.tables)
    else:
        plan = split_evenly(chunks, cache.tables, decode.heads, form, np.full(len(lengths), num_splits))
    found = []
    for _ in range(2):  # the second run finds the arrival counters as the first left them
        output = cupy.full(shape, NAN_BITS, cupy.uint16)
        kernel.run(plan, cache, query, output)
        found.append(output)
    assert (found[0] == found[1]).all()
    return max(
        error(
            from_bits(found[0][row], bf16),
            attention(
                from_bits(query[row], bf16), from_bits(cache.keys[row], bf16), from_bits(cache.values[row], bf16)
            ),
        )
        for row in range(len(lengths))
    )


def addressing_of(block_size: int) -> Addressing:
    return Addressing.PAGED if block_size >= 16 else Addressing.PAGED_SMALL


@pytest.mark.parametrize("group", [1, 3, 4, 8, 12, 16])
@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp16", "bf16"])
def test_agrees_with_float64_for_every_form_whole_and_split(bf16: bool, head_dim: int, group: int) -> None:
    rng = np.random.default_rng((head_dim, group, bf16))
    kernel = Kernel(group, head_dim, bf16=bf16, addressing=Addressing.PAGED)
    for form in kernels.forms(group, head_dim):
        for num_splits in (1, 3, 63):
            found = worst_error(rng, kernel, LENGTHS, bf16=bf16, block_size=16, form=form, num_splits=num_splits)
            assert found < TOLERANCE[bf16], (form, num_splits)


@pytest.mark.parametrize("block_size", [1, 2, 4, 8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp16", "bf16"])
def test_agrees_with_float64_for_every_block_size(bf16: bool, head_dim: int, block_size: int) -> None:
    rng = np.random.default_rng((head_dim, block_size, bf16))
    for group in (1, 4, 16):
        kernel = Kernel(group, head_dim, bf16=bf16, addressing=addressing_of(block_size))
        assert worst_error(rng, kernel, LENGTHS, bf16=bf16, block_size=block_size) < TOLERANCE[bf16]


@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp16", "bf16"])
def test_the_contiguous_twin_agrees_with_float64(bf16: bool, head_dim: int) -> None:
    rng = np.random.default_rng((head_dim, bf16))
    for group in (1, 8, 16):
        kernel = Kernel(group, head_dim, bf16=bf16, addressing=Addressing.CONTIGUOUS)
        found = worst_error(rng, kernel, LENGTHS, bf16=bf16, block_size=16, contiguous=True)
        assert found < TOLERANCE[bf16]


def test_long_contexts_and_many_splits() -> None:
    rng = np.random.default_rng(1)
    kernel = Kernel(4, 128, bf16=False, addressing=Addressing.PAGED, kv_heads=1)
    assert worst_error(rng, kernel, [200_000, 5], bf16=False, block_size=16) < TOLERANCE[False]
    form = Form(4, 3)
    found = worst_error(rng, kernel, [140_000], bf16=False, block_size=16, form=form, num_splits=256)
    assert found < TOLERANCE[False]


def test_large_batches_of_ragged_lengths() -> None:
    rng = np.random.default_rng(2)
    kernel = Kernel(4, 64, bf16=True, addressing=Addressing.PAGED)
    lengths = np.minimum(rng.lognormal(5, 1.2, 1024).astype(int) + 1, 4000).tolist()
    assert worst_error(rng, kernel, lengths, bf16=True, block_size=16) < TOLERANCE[True]


def test_scores_far_apart_do_not_overflow() -> None:
    """A running maximum that moves by hundreds, up and down: the lazily rescaled softmax must follow."""
    rng = np.random.default_rng(3)
    kernel = Kernel(4, 128, bf16=True, addressing=Addressing.PAGED)
    cache = make_cache(rng, [700], num_kv_heads=2, head_dim=128, block_size=16, bf16=True)
    scales = cupy.asarray(np.exp(rng.uniform(-3, 4, 700)).astype(np.float32))
    slots = cupy.concatenate([cupy.arange(16) + 16 * block for block in cache.block_tables])[:700]
    scaled = to_bits(from_bits(cache.keys[0], True) * scales[:, None, None], True)
    cache.pool[0, slots] = scaled
    query = to_bits(cupy.asarray(rng.standard_normal((1, 8, 128), np.float32)), True)
    for num_splits in (1, 5):
        plan = split_evenly(np.array([700]), cache.tables, kernel.decode.heads, Form(4, 3), np.array([num_splits]))
        output = cupy.full((1, 8, 128), NAN_BITS, cupy.uint16)
        kernel.run(plan, cache, query, output)
        expected = attention(from_bits(query[0], True), from_bits(scaled, True), from_bits(cache.values[0], True))
        assert error(from_bits(output[0], True), expected) < TOLERANCE[True]


def test_sizes_without_a_kernel_are_refused_in_one_sentence() -> None:
    from pagesim_backends.cuda.attention import Decode

    with pytest.raises(BackendError, match=r"no kernel for head_dim 72; it has 64, 80, 96, 128, 256"):
        Decode(8, 8, 72, bf16=False, addressing=Addressing.PAGED)
    with pytest.raises(BackendError, match=r"1 to 16 query heads a KV head; 34 query heads over 2 KV heads are not"):
        Decode(34, 2, 64, bf16=False, addressing=Addressing.PAGED)
