"""Attention in float64, and K and V laid out in a pool, for the tests of the GPU kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pagesim_backends.cuda.kernels import PoolView

Bits = Any  # cupy.ndarray of uint16: fp16 or bf16
NAN_BITS = 0x7FFF  # NaN in fp16 and in bf16

TOLERANCE = {False: 1e-3, True: 8e-3}
"""Relative norm of the error, by bf16: the rounding of inputs is exact, that of P and of the output is not."""


def to_bits(values: Any, bf16: bool) -> Bits:
    """Return float values as the bits of fp16 or bf16, rounded to the nearest."""
    import cupy

    if not bf16:
        return values.astype(cupy.float16).view(cupy.uint16)
    words = values.astype(cupy.float32).view(cupy.uint32)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(cupy.uint16)


def from_bits(bits: Bits, bf16: bool) -> Any:
    """Return bits of fp16 or bf16 as float64."""
    import cupy

    if not bf16:
        return bits.view(cupy.float16).astype(cupy.float64)
    return (bits.astype(cupy.uint32) << 16).view(cupy.float32).astype(cupy.float64)


def attention(query: Any, key: Any, value: Any) -> Any:
    """Return softmax(q K^T / sqrt(d)) V in float64.

    Args:
        query: (query heads, head_dim).
        key, value: (tokens, KV heads, head_dim).
    """
    import cupy

    group = query.shape[0] // key.shape[1]
    scores = cupy.einsum("hd,lhd->hl", query, key.repeat(group, axis=1)) / np.sqrt(query.shape[1])
    weights = cupy.exp(scores - scores.max(axis=1, keepdims=True))
    return cupy.einsum("hl,lhd->hd", weights / weights.sum(axis=1, keepdims=True), value.repeat(group, axis=1))


def error(found: Any, expected: Any) -> float:
    """Return the relative norm of the difference; NaN where something is not a number."""
    import cupy

    return float(cupy.linalg.norm(found - expected) / cupy.linalg.norm(expected))


@dataclass(frozen=True)
class Cache:
    """Random K and V of some sequences in a pool whose other slots hold NaN.

    Attributes:
        pool: (2, slots, KV heads, head_dim), bits.
        keys, values: of each sequence, (tokens, KV heads, head_dim), bits.
        block_tables: int32 on the device, one table after the other.
        tables: first entry of each, or the first slot of each where sequences are contiguous.
        block_size: slots of a block.
    """

    pool: Bits
    keys: list[Bits]
    values: list[Bits]
    block_tables: Any
    tables: npt.NDArray[np.int64]
    block_size: int

    @property
    def view(self) -> PoolView:
        """The pool as a kernel sees it."""
        _, _, heads, dim = self.pool.shape
        return PoolView(
            self.pool[0].data.ptr,
            self.pool[1].data.ptr,
            self.block_size * heads * dim,
            heads * dim,
            dim,
            self.block_size,
        )


def make_cache(
    rng: np.random.Generator,
    lengths: list[int],
    *,
    num_kv_heads: int,
    head_dim: int,
    block_size: int,
    bf16: bool,
    contiguous: bool = False,
) -> Cache:
    """Return a cache with shuffled block tables, or with runs of slots in a shuffled order."""
    import cupy

    blocks = [-(-length // block_size) for length in lengths]
    num_blocks = sum(blocks) + 3
    if contiguous:
        order = rng.permutation(len(lengths))
        first = np.zeros(len(lengths), np.int64)
        first[order] = np.cumsum([0, *(blocks[index] for index in order)])[:-1] + 1
        found = [np.arange(start, start + count) for start, count in zip(first, blocks, strict=True)]
        tables = first * block_size
    else:
        free = rng.permutation(num_blocks)
        ends = np.cumsum(blocks)
        found = [free[end - count : end] for end, count in zip(ends, blocks, strict=True)]
        tables = ends - np.array(blocks)
    pool = cupy.full((2, num_blocks * block_size, num_kv_heads, head_dim), NAN_BITS, cupy.uint16)
    keys: list[Bits] = []
    values: list[Bits] = []
    for length, table in zip(lengths, found, strict=True):
        slots = cupy.asarray((table[:, None] * block_size + np.arange(block_size)).reshape(-1)[:length])
        for side, kept in enumerate((keys, values)):
            drawn = to_bits(cupy.asarray(rng.standard_normal((length, num_kv_heads, head_dim), np.float32)), bf16)
            pool[side, slots] = drawn
            kept.append(drawn)
    return Cache(
        pool, keys, values, cupy.asarray(np.concatenate(found).astype(np.int32)), tables.astype(np.int64), block_size
    )
