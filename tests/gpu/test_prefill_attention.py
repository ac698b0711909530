"""Prefill attention against float64: causal, in chunks, over a context that is paged already."""

from __future__ import annotations

import numpy as np
import pytest

from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.batch import PREFILL_ITEM
from pagesim_backends.cuda.kernels import PREFILL_ROWS, Addressing
from tests.gpu.oracle import NAN_BITS, TOLERANCE, attention, error, from_bits, make_cache, to_bits

cupy = pytest.importorskip("cupy", reason="needs CuPy (the extra cuda12 or cuda13)")

CHUNKS = [(0, 1), (0, 50), (37, 1), (63, 66), (200, 131)]
"""(tokens stored before the chunk, tokens of the chunk)"""


def worst_error(*, bf16: bool, head_dim: int, group: int, block_size: int, contiguous: bool = False) -> float:
    from pagesim_backends.cuda.attention import Prefill

    rng = np.random.default_rng((head_dim, group, block_size, bf16))
    num_kv_heads = 2
    addressing = Addressing.CONTIGUOUS if contiguous else Addressing.PAGED
    kernel = Prefill(group * num_kv_heads, num_kv_heads, head_dim, bf16=bf16, addressing=addressing)
    lengths = [stored + tokens for stored, tokens in CHUNKS]
    cache = make_cache(
        rng,
        lengths,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        block_size=block_size,
        bf16=bf16,
        contiguous=contiguous,
    )
    num_tokens = sum(tokens for _, tokens in CHUNKS)
    shape = (num_tokens, group * num_kv_heads, head_dim)
    query = to_bits(cupy.asarray(rng.standard_normal(shape, np.float32)), bf16)
    output = cupy.full(shape, NAN_BITS, cupy.uint16)
    items, first = [], 0
    for (stored, tokens), table in zip(CHUNKS, cache.tables.tolist(), strict=True):
        items += [
            (row, tokens * group, first, stored, table, (0, 0, 0)) for row in range(0, tokens * group, PREFILL_ROWS)
        ]
        first += tokens
    sent = cupy.asarray(np.array(items, PREFILL_ITEM).view(np.uint8))
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    kernel.launch(
        sent.data.ptr,
        len(items),
        cache.view,
        query.data.ptr,
        output.data.ptr,
        cache.block_tables.data.ptr,
        stream,
    )
    stream.synchronize()
    worst, first = 0.0, 0
    for (stored, tokens), key, value in zip(CHUNKS, cache.keys, cache.values, strict=True):
        for token in range(0, tokens, 7):
            seen = stored + token + 1
            expected = attention(
                from_bits(query[first + token], bf16), from_bits(key[:seen], bf16), from_bits(value[:seen], bf16)
            )
            worst = max(worst, error(from_bits(output[first + token], bf16), expected))
        first += tokens
    assert not cupy.isnan(from_bits(output, bf16)).any()
    return worst


@pytest.mark.parametrize("group", [1, 4, 7, 16])
@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp16", "bf16"])
def test_agrees_with_float64(bf16: bool, head_dim: int, group: int) -> None:
    assert worst_error(bf16=bf16, head_dim=head_dim, group=group, block_size=16) < TOLERANCE[bf16]


@pytest.mark.parametrize("block_size", [1, 2, 8, 64, 256])
def test_agrees_with_float64_for_other_block_sizes(block_size: int) -> None:
    assert worst_error(bf16=False, head_dim=128, group=4, block_size=block_size) < TOLERANCE[False]


@pytest.mark.parametrize("head_dim", kernels.HEAD_DIMS)
def test_the_contiguous_twin_agrees_with_float64(head_dim: int) -> None:
    assert worst_error(bf16=True, head_dim=head_dim, group=4, block_size=16, contiguous=True) < TOLERANCE[True]
