"""The pool's moves on the device against numpy, in both layouts and over both ways across the host link."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pagesim.blocks import BlockOps, Copy, Op, SwapIn, SwapOut
from pagesim.errors import BackendError
from pagesim_backends import tokens
from pagesim_backends.cache_shape import CacheShape
from pagesim_backends.moves import batches

cupy = pytest.importorskip("cupy", reason="needs CuPy (the extra cuda12 or cuda13)")

LAYERS, HEADS, DIM = 3, 2, 64


def make_pool(num_blocks: int, block_size: int, num_host_blocks: int, *, contiguous: bool = False) -> Any:
    from pagesim_backends.cuda.pool import Pool

    shape = CacheShape(num_blocks, block_size, num_host_blocks, LAYERS, HEADS, HEADS, DIM)
    return Pool(shape, contiguous=contiguous, bf16=False, stream=cupy.cuda.Stream(non_blocking=True))


def blocks_of(pool: Any) -> np.ndarray[Any, Any]:
    """Return the pool as (blocks, everything of a block), pieces in the order of a move."""
    pool.synchronize()
    flat: np.ndarray[Any, Any] = cupy.asnumpy(pool._data).view(np.uint16)
    shape = pool.shape
    if pool.block_major:
        return flat.reshape(shape.num_blocks + 1, -1)[:-1]
    whole = flat.reshape(2 * LAYERS, shape.num_blocks + 1, -1)
    return whole.transpose(1, 0, 2).reshape(shape.num_blocks + 1, -1)[:-1]


def perform(pool: Any, ops: list[Op]) -> None:
    for batch in batches(BlockOps(ops)):
        pool.perform(batch)
    pool.synchronize()


@pytest.fixture(params=["block_major", "layer_major"])
def pool(request: pytest.FixtureRequest) -> Any:
    made = make_pool(40, 32, 30, contiguous=request.param == "layer_major")
    assert made.block_major == (request.param == "block_major")
    random = np.random.default_rng(0).integers(0, 2**16, made._data.nbytes // 2, np.uint16)
    made._data.set(random.view(np.uint8))
    cupy.cuda.Device().synchronize()
    return made


def test_copies_follow_their_order(pool: Any) -> None:
    expected = blocks_of(pool).copy()
    ops: list[Op] = [
        Copy(0, 8, 4),
        Copy(4, 0, 4),
        Copy(8, 20),
        Copy(20, 21),
        Copy(30, 32, 5),
        Copy(34, 33, 5),
        Copy(1, 39),
    ]
    for copy in ops:
        assert isinstance(copy, Copy)
        source, target, count = copy
        expected[target : target + count] = expected[source : source + count].copy()
    perform(pool, ops)
    np.testing.assert_array_equal(blocks_of(pool), expected)


@pytest.mark.parametrize("count", [1000, 2**24])
def test_a_pool_is_filled_with_repetitions(pool: Any, count: int) -> None:
    values = np.random.default_rng(2).integers(0, 256, count, np.uint8)
    pool.repeat(values)
    np.testing.assert_array_equal(cupy.asnumpy(pool._data), np.resize(values, pool._data.nbytes))


def test_overlapping_copies_without_a_host_pool() -> None:
    """They go through a buffer of their own, which has to live until they are done."""
    pool = make_pool(40, 32, 0)
    random = np.random.default_rng(3).integers(0, 2**16, pool._data.nbytes // 2, np.uint16)
    pool._data.set(random.view(np.uint8))
    cupy.cuda.Device().synchronize()
    expected = blocks_of(pool).copy()
    expected[2:32] = expected[0:30].copy()
    work = [enqueue for batch in batches(BlockOps([Copy(0, 2, 30)])) for enqueue in pool.prepare(batch)]
    others = [cupy.full(pool._data.nbytes, 0xAB, np.uint8) for _ in range(3)]  # would take freed memory
    cupy.cuda.Device().synchronize()
    for enqueue in work:
        enqueue()
    np.testing.assert_array_equal(blocks_of(pool), expected)
    assert all(bool((other == 0xAB).all()) for other in others)


@pytest.mark.parametrize("by_kernel", [False, True], ids=["copy_engine", "kernel"])
def test_inv_12_swaps_keep_contents(pool: Any, by_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from pagesim_backends.cuda import pool as module

    if by_kernel:
        monkeypatch.setattr(module, "DMA_FROM", 2**60)
    before = blocks_of(pool).copy()
    rng = np.random.default_rng(1)
    devices, hosts, returns = (rng.permutation(count)[:25].tolist() for count in (40, 30, 40))
    perform(pool, [SwapOut(device, host) for device, host in zip(devices, hosts, strict=True)])
    pool.fill(0x7FFF)
    cupy.cuda.Device().synchronize()
    perform(pool, [SwapIn(host, device) for host, device in zip(hosts, returns, strict=True)])
    after = blocks_of(pool)
    np.testing.assert_array_equal(after[returns], before[devices])
    untouched = sorted(set(range(40)) - set(returns))
    assert (after[untouched] == 0x7FFF).all()


def test_a_swap_out_may_be_overwritten_by_what_follows(pool: Any) -> None:
    before = blocks_of(pool).copy()
    perform(pool, [SwapOut(3, 0), Copy(5, 3), SwapIn(0, 7)])
    after = blocks_of(pool)
    np.testing.assert_array_equal(after[7], before[3])
    np.testing.assert_array_equal(after[3], before[5])


def test_swaps_larger_than_the_staging_buffer(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pagesim_backends.cuda import pool as module

    monkeypatch.setattr(module, "STAGING_BYTES", 4 * pool.block_bytes)
    before = blocks_of(pool).copy()
    perform(pool, [SwapOut(device, device) for device in range(30)])
    perform(pool, [Copy(30, 0, 10), Copy(0, 3, 30)])
    perform(pool, [SwapIn(host, host) for host in range(30)])
    np.testing.assert_array_equal(blocks_of(pool)[:30], before[:30])


def test_drawn_tokens_are_those_of_the_reference() -> None:
    from pagesim_backends.cuda import kernels

    keys = tokens.token_keys([tokens.Run(tokens.stream_of(0, 9, 1), 0, 33)])
    heads, dim, layers, first = 6, 80, 2, 5
    for bf16 in (False, True):
        kernel = kernels.load(kernels.cache_variant("draw_tokens", bf16), cupy.cuda.Device().id)
        held = {
            name: cupy.zeros((layers, 33, count, dim), np.uint16)
            for name, count in (("query", heads), ("key", 2), ("value", 2))
        }
        on_device = cupy.asarray(keys)
        params = np.zeros((), kernels.TOKEN_PARAMS)
        params["keys"] = on_device.data.ptr
        for name, array in held.items():
            params[name] = array.data.ptr
        params["num_tokens"], params["num_layers"], params["first_layer"] = 33, layers, first
        params["num_query_heads"], params["num_kv_heads"], params["head_dim"] = heads, 2, dim
        kernel((33, layers), (256,), (params,))
        for what, name in enumerate(("query", "key", "value")):
            expected = tokens.values(keys, what, first + layers, heads if what == 0 else 2, dim)[:, first:]
            found = cupy.asnumpy(held[name])
            as_float = (found.astype(np.uint32) << 16).view(np.float32) if bf16 else found.view(np.float16)
            np.testing.assert_array_equal(as_float.transpose(1, 0, 2, 3), expected)


def test_memory_that_is_not_there_is_refused_in_one_sentence() -> None:
    with pytest.raises(BackendError, match=r"slots needs .* of device memory and .* are free; lower memory.kv_cache"):
        make_pool(10**9, 16, 0)
    with pytest.raises(BackendError, match=r"of host memory cannot be pinned .*; lower memory.host_kv_cache"):
        make_pool(10, 16, 10**9)
