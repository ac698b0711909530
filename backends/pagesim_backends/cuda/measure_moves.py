"""Measures what moves blocks on the GPU that is there: copies, swaps, decode beside a swap; and what a launch costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cupy
import numpy as np

from pagesim.blocks import BlockOps, Copy, Op, SwapIn, SwapOut
from pagesim_backends.cache_shape import CacheShape
from pagesim_backends.cuda.kernels import Addressing
from pagesim_backends.cuda.measure import Bench, Point
from pagesim_backends.cuda.pool import Pool
from pagesim_backends.moves import batches

RANDOM_BYTES: Final = 16 * 2**20
"""Random bytes that a pool is filled with, again and again."""


@dataclass(frozen=True)
class MoveFigures:
    """Moving blocks: sizes in KiB, rates in GB/s.

    Attributes:
        block_kib: of a block, all layers.
        layout: of the pool.
        copy: bytes read and written, over time; all blocks in one launch.
        swap_out, swap_in: bytes over the host link, to scattered host blocks.
    """

    block_size: int
    block_kib: float
    layout: str
    copy: float
    swap_out: float
    swap_in: float


def moves(shape: CacheShape, num_moved: int, *, contiguous: bool = False, repeats: int = 5) -> MoveFigures:
    """Measure copies and swaps of ``num_moved`` scattered blocks each way."""
    stream = cupy.cuda.Stream(non_blocking=True)
    pool = _filled_pool(shape, contiguous, stream)
    rng = np.random.default_rng(0)
    devices = rng.permutation(shape.num_blocks)[: 2 * num_moved].tolist()
    hosts = rng.permutation(shape.num_host_blocks)[:num_moved].tolist()
    copies: list[Op] = [Copy(devices[i], devices[num_moved + i]) for i in range(num_moved)]
    outs: list[Op] = [SwapOut(devices[i], hosts[i]) for i in range(num_moved)]
    ins: list[Op] = [SwapIn(hosts[i], devices[i]) for i in range(num_moved)]

    def rate(ops: list[Op], factor: int) -> float:
        work = [enqueue for batch in batches(BlockOps(ops)) for enqueue in pool.prepare(batch)]
        found = []
        for _ in range(repeats + 1):
            pool.synchronize()
            started = time.perf_counter()
            for enqueue in work:
                enqueue()
            pool.synchronize()
            found.append(time.perf_counter() - started)
        return factor * num_moved * pool.block_bytes / float(np.median(found[1:])) / 1e9

    return MoveFigures(
        shape.block_size,
        pool.block_bytes / 1024,
        "block-major" if pool.block_major else "layer-major",
        rate(copies, 2),
        rate(outs, 1),
        rate(ins, 1),
    )


@dataclass(frozen=True)
class BesideFigures:
    """Decode while blocks cross the host link; microseconds of a layer, GB/s.

    Attributes:
        point: the batch that decodes; block_kib: of a block that moves.
        alone_us, out_us, in_us: without swaps, beside swap-outs, beside swap-ins; None if those ended before three
            replays of decode had.
        out_gb_per_s, in_gb_per_s: of the swaps beside it.
    """

    point: str
    block_kib: float
    alone_us: float
    out_us: float | None
    in_us: float | None
    out_gb_per_s: float
    in_gb_per_s: float


def decode_beside_swaps(bench: Bench, point: Point, shape: CacheShape, *, contiguous: bool = False) -> BesideFigures:
    """Measure decode while blocks of a pool go to scattered ones of a host pool, half of which they fill, and back."""
    pool = _filled_pool(shape, contiguous, cupy.cuda.Stream(non_blocking=True))
    prepared = bench.prepare(point, 16, Addressing.PAGED)
    graph, count = bench.clock.capture(prepared.launches), len(prepared.launches)
    alone = bench.clock.replay(graph, count)
    places = np.random.default_rng(0).permutation(shape.num_host_blocks)[: shape.num_host_blocks // 2].tolist()
    places = places[: shape.num_blocks]
    outs: list[Op] = [SwapOut(block, place) for block, place in enumerate(places)]
    ins: list[Op] = [SwapIn(place, block) for block, place in enumerate(places)]
    (out_us, out_rate), (in_us, in_rate) = (_replays_beside(bench, graph, count, pool, ops) for ops in (outs, ins))
    return BesideFigures(point.name, pool.block_bytes / 1024, alone, out_us, in_us, out_rate, in_rate)


def _filled_pool(shape: CacheShape, contiguous: bool, stream: Any) -> Pool:
    pool = Pool(shape, contiguous=contiguous, bf16=False, stream=stream)
    pool.repeat(np.random.default_rng(0).integers(0, 256, RANDOM_BYTES, np.uint8))
    return pool


def _replays_beside(bench: Bench, graph: Any, count: int, pool: Pool, ops: list[Op]) -> tuple[float | None, float]:
    """Replay a graph of ``count`` launches for as long as swaps take; return a launch's microseconds and their GB/s."""
    (batch,) = batches(BlockOps(ops))
    stream = bench.clock.stream
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record(pool.stream)
    pool.perform(batch)  # enqueued: it goes on while decode is measured
    end.record(pool.link)
    found = []
    while not end.done:
        first, last = cupy.cuda.Event(), cupy.cuda.Event()
        first.record(stream)
        graph.launch(stream)
        last.record(stream)
        last.synchronize()
        found.append(cupy.cuda.get_elapsed_time(first, last) * 1e3)
    pool.synchronize()
    seconds = cupy.cuda.get_elapsed_time(begin, end) / 1e3
    within = found[:-1]  # the last one was alone in part
    microseconds = float(np.mean(within)) / count if len(within) >= 3 else None  # some meet a gather, some do not
    return microseconds, len(batch.blocks) * pool.block_bytes / seconds / 1e9


def launch_overhead(bench: Bench, point: Point, num_launches: int = 200) -> tuple[float, float]:
    """Return the host's microseconds of launching a layer of decode from Python, and of replaying it in a graph."""
    stream = bench.clock.stream
    call = bench.prepare(point, 16, Addressing.PAGED).launches[0]

    def host_us(work: Callable[[], None]) -> float:
        work()
        stream.synchronize()
        started = time.perf_counter()
        work()
        spent = time.perf_counter() - started
        stream.synchronize()
        return spent * 1e6 / num_launches

    def one_by_one() -> None:
        for _ in range(num_launches):
            call()

    direct = host_us(one_by_one)
    stream.begin_capture()
    one_by_one()
    graph = stream.end_capture()
    return direct, host_us(lambda: graph.launch(stream))
