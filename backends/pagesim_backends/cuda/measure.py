"""Measures the kernels on the GPU that is there: decode attention beside its ceiling, moves, launches.

Every time is that of a launch in a CUDA graph, the median over replays, over sets of blocks that together are
larger than the L2 cache. The ceiling is the time of a kernel that reads as many bytes and does nothing else,
measured in the same process: the honest floor of decode attention, which writes almost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Listing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import cupy
import numpy as np
import numpy.typing as npt

from pagesim.blocks import BlockOps, Copy, Op, SwapIn, SwapOut
from pagesim.errors import BackendError
from pagesim_backends import tokens
from pagesim_backends.cache_shape import CacheShape
from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.attention import Decode, DecodeBuffers, Prefill
from pagesim_backends.cuda.backend import NUM_TRIALS, Buffers
from pagesim_backends.cuda.batch import PREFILL_ITEM
from pagesim_backends.cuda.kernels import PREFILL_ROWS, Addressing, PoolView
from pagesim_backends.cuda.launch import launch, pack
from pagesim_backends.cuda.plan import DecodePlan
from pagesim_backends.cuda.pool import ELEMENT_BYTES, Pool
from pagesim_backends.moves import batches

Array = Any  # cupy.ndarray

ROTATE_BYTES: Final = 256 * 2**20
"""What the sets of blocks of one measurement hold at least: several times an L2 cache."""


@dataclass(frozen=True)
class Model:
    """Heads of a model, as attention sees them."""

    name: str
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    bf16: bool = False

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's K and V in one layer."""
        return 2 * self.num_kv_heads * self.head_dim * ELEMENT_BYTES


OPT_13B: Final = Model("opt-13b", 40, 40, 128)
LLAMA_3_8B: Final = Model("llama-3-8b", 32, 8, 128)


@dataclass(frozen=True)
class Point:
    """One batch: a model and how many tokens each sequence attends to."""

    name: str
    model: Model
    lengths: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of K and V that one layer of it reads."""
        return sum(self.lengths) * self.model.token_bytes


@dataclass(frozen=True)
class DecodeFigures:
    """One layer of decode attention; times in microseconds.

    Attributes:
        point, model: names.
        num_sequences: of the batch.
        mib: K and V that are read.
        block_size: of the paged run.
        ceiling_us: of reading as many bytes, by ordinary launches.
        early_ceiling_us: the same by launches that start while the one before them ends.
        paged_us: with a block table, by such early launches, as the backend does.
        ordinary_us: the same by ordinary launches.
        contiguous_us: the same kernel without a table, early.
        form: warps x thread blocks of a multiprocessor, chosen by the planner.
        items, max_splits: of the plan.
        plan_us: the host's time to plan.
    """

    point: str
    model: str
    num_sequences: int
    mib: float
    block_size: int
    ceiling_us: float
    early_ceiling_us: float
    paged_us: float
    ordinary_us: float
    contiguous_us: float
    form: str
    items: int
    max_splits: int
    plan_us: float


class Clock:
    """Times launches by replaying them from a graph."""

    def __init__(self, repeats: int = 9, stream: Any = None) -> None:
        self.stream = stream or cupy.cuda.Stream(non_blocking=True)
        self.repeats = repeats

    def median(self, launches: Listing[Callable[[], None]]) -> float:
        """Return the microseconds of one launch; all are captured in one graph, in order."""
        return self.replay(self.capture(launches), len(launches))

    def capture(self, launches: Listing[Callable[[], None]]) -> Any:
        """Return a graph of the launches, in order, and replay it once."""
        for enqueue in launches[:2]:  # loads the kernels
            enqueue()
        self.stream.synchronize()
        self.stream.begin_capture()
        for enqueue in launches:
            enqueue()
        graph = self.stream.end_capture()
        graph.launch(self.stream)
        self.stream.synchronize()
        return graph

    def replay(self, graph: Any, num_launches: int) -> float:
        """Return the microseconds of one of the launches of a graph, the median over replays."""
        found = []
        for _ in range(self.repeats):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record(self.stream)
            graph.launch(self.stream)
            end.record(self.stream)
            self.stream.synchronize()
            found.append(cupy.cuda.get_elapsed_time(begin, end) * 1e3 / num_launches)
        return float(np.median(found))


@dataclass(frozen=True)
class Prepared:
    """Decode attention of one batch, ready to be launched.

    Attributes:
        plan: what is launched.
        plan_us: the host's time to make it, when a batch like it came before.
        launches: over different sets of blocks.
    """

    plan: DecodePlan
    plan_us: float
    launches: list[Callable[[], None]]


class Bench:
    """K and V of one layer of one model, full of random numbers, and the kernels over it.

    Args:
        model: whose heads.
        pool_bytes: of K and V together.
        clock: takes the times.
    """

    def __init__(self, model: Model, pool_bytes: int, clock: Clock) -> None:
        self.model = model
        self.clock = clock
        self.num_slots = pool_bytes // model.token_bytes // 256 * 256
        self.device = cupy.cuda.Device().id
        self.num_sms = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
        row = model.num_kv_heads * model.head_dim
        self.data = cupy.empty((2, self.num_slots, row), np.uint16)
        self.memory = Buffers()
        self._fill()

    def view(self, block_size: int) -> PoolView:
        """Return the pool in blocks of a size."""
        dim, heads = self.model.head_dim, self.model.num_kv_heads
        token = dim * heads
        return PoolView(self.data[0].data.ptr, self.data[1].data.ptr, block_size * token, token, dim, block_size)

    def decode(self, point: Point, block_size: int = 16, seed: int = 0) -> DecodeFigures:
        """Measure one batch: the ceiling, the kernel over shuffled blocks, its twin over runs of slots."""
        times = {}
        for addressing, early in ((Addressing.PAGED, True), (Addressing.PAGED, False), (Addressing.CONTIGUOUS, True)):
            prepared = self.prepare(point, block_size, addressing, seed=seed, early=early)
            times[addressing, early] = self.clock.median(prepared.launches)
            if (addressing, early) == (Addressing.PAGED, True):
                plan, plan_us = prepared.plan, prepared.plan_us
        return DecodeFigures(
            point=point.name,
            model=self.model.name,
            num_sequences=len(point.lengths),
            mib=point.num_bytes / 2**20,
            block_size=block_size,
            ceiling_us=self.ceiling(point.num_bytes),
            early_ceiling_us=self.ceiling(point.num_bytes, early=True),
            paged_us=times[Addressing.PAGED, True],
            ordinary_us=times[Addressing.PAGED, False],
            contiguous_us=times[Addressing.CONTIGUOUS, True],
            form=f"{plan.form.num_warps}x{plan.form.blocks_per_sm}",
            items=len(plan.items),
            max_splits=plan.max_splits,
            plan_us=plan_us,
        )

    def ceiling(self, num_bytes: int, *, early: bool = False) -> float:
        """Return the microseconds of reading so many bytes: the best of several launches.

        Args:
            num_bytes: to read.
            early: whether a launch may start while the one before it ends, as decode attention may.
        """
        kernel = kernels.load(kernels.cache_variant("read_all", self.model.bf16), self.device)
        sink = cupy.zeros(1, np.uint32)
        cupy.cuda.Device().synchronize()
        whole, vectors = self.data.nbytes, num_bytes // 16
        sets = self._num_sets(num_bytes, whole)
        best = float("inf")
        for threads in (256, 512, 1024):
            tiles = -(-vectors // (threads * 8))
            for grid in sorted({min(tiles, self.num_sms * most // threads) for most in (2048, 1024)} | {tiles}):

                def read(index: int, grid: int = grid, threads: int = threads) -> None:
                    offset = index % sets * num_bytes // 256 * 256
                    source = self.data.data.ptr + min(offset, (whole - num_bytes) // 256 * 256)
                    params = pack(kernels.READ_PARAMS, source=source, sink=sink.data.ptr, num_vectors=vectors)
                    launch(kernel, (grid, 1), threads, params, self.clock.stream, early=early)

                best = min(best, self.clock.median(_calls(read, self._num_launches(sets, num_bytes))))
        return best

    def prepare(
        self,
        point: Point,
        block_size: int,
        addressing: Addressing,
        *,
        seed: int = 0,
        early: bool = True,
        plan_by: Callable[[Decode, npt.NDArray[np.int64]], DecodePlan] | None = None,
    ) -> Prepared:
        """Make a batch ready to be launched; it stays so until the next one is.

        Args:
            point: the batch.
            block_size: of its tables.
            addressing: PAGED or CONTIGUOUS.
            seed: of the shuffled tables.
            early: whether a launch may start while the one before it ends.
            plan_by: makes the plan from the first entries of the tables; the planner by default.
        """
        model, view, lengths = self.model, self.view(block_size), np.array(point.lengths, np.int64)
        if addressing is Addressing.PAGED and block_size < kernels.CHUNK:
            addressing = Addressing.PAGED_SMALL
        decode = Decode(
            model.num_query_heads, model.num_kv_heads, model.head_dim, bf16=model.bf16, addressing=addressing
        )
        blocks = -(-lengths // block_size)
        used, total = int(blocks.sum()), self.num_slots // block_size
        if used > total:
            raise BackendError(f"{point.name} needs {used} blocks of {block_size} and the pool has {total}")
        sets = max(1, min(total // used, self._num_sets(point.num_bytes, self.data.nbytes)))
        free = np.random.default_rng(seed).permutation(total)[: used * sets].astype(np.int32)
        first = np.cumsum(blocks) - blocks
        tables = first * block_size if addressing is Addressing.CONTIGUOUS else first
        buffers = DecodeBuffers(self.memory, model.head_dim)
        rows = len(lengths) * model.num_query_heads * model.head_dim * ELEMENT_BYTES
        query, output = self._queries(rows), self.memory.reserve("output", rows)
        entries = self.memory.send("block_tables", free, self.clock.stream)
        # A set is its own part of the block tables; without tables, its own part of the pool.
        contiguous = addressing is Addressing.CONTIGUOUS
        jump = used * block_size * view.token_stride * ELEMENT_BYTES

        def attend(plan: DecodePlan, items: int, index: int) -> None:
            turn = index % sets
            place = view
            if contiguous:
                place = replace(view, key=view.key + turn * jump, value=view.value + turn * jump)
            tables_at = entries if contiguous else entries + turn * used * 4
            decode.launch(
                plan.form,
                items,
                len(plan.items),
                buffers,
                place,
                query,
                output,
                tables_at,
                self.clock.stream,
                early=early,
            )

        def launches(plan: DecodePlan, count: int) -> list[Callable[[], None]]:
            buffers.reserve(max(plan.num_slots, 1), plan.item_heads)
            items = self.memory.send("items", plan.items, self.clock.stream)
            cupy.cuda.Device().synchronize()
            return _calls(partial(attend, plan, items), count)

        trial = Clock(NUM_TRIALS, self.clock.stream)
        count = self._num_launches(sets, point.num_bytes)
        if plan_by is None:  # the choice is made once for many steps
            decode.planner.plan(lengths, tables, lambda plan: trial.median(launches(plan, sets)))
        started = time.perf_counter()
        plan = decode.planner.plan(lengths, tables) if plan_by is None else plan_by(decode, tables)
        plan_us = (time.perf_counter() - started) * 1e6
        return Prepared(plan, plan_us, launches(plan, count))

    def prefill(self, num_tokens: int, stored: int, block_size: int = 16) -> float:
        """Return the Tflop/s of prefill attention for a chunk after ``stored`` tokens, counting causal pairs."""
        model, view = self.model, self.view(block_size)
        sizes = (model.num_query_heads, model.num_kv_heads, model.head_dim)
        kernel = Prefill(*sizes, bf16=model.bf16, addressing=Addressing.PAGED)
        group = model.num_query_heads // model.num_kv_heads
        rows = num_tokens * group
        blocks = range(0, rows, PREFILL_ROWS)[::-1]
        items = np.array([(row, rows, 0, stored, 0, (0, 0, 0)) for row in blocks], PREFILL_ITEM)
        table = np.random.default_rng(0).permutation(self.num_slots // block_size)
        table = table[: -(-(stored + num_tokens) // block_size)].astype(np.int32)
        num_bytes = num_tokens * model.num_query_heads * model.head_dim * ELEMENT_BYTES
        query, output = self._queries(num_bytes), self.memory.reserve("output", num_bytes)
        entries = self.memory.send("block_tables", table, self.clock.stream)
        sent = self.memory.send("prefill_items", items, self.clock.stream)
        cupy.cuda.Device().synchronize()

        def attend(index: int) -> None:
            kernel.launch(sent, len(items), view, query, output, entries, self.clock.stream)

        microseconds = self.clock.median(_calls(attend, 5))
        pairs = num_tokens * stored + num_tokens * (num_tokens + 1) // 2
        return 4 * pairs * model.num_query_heads * model.head_dim / microseconds / 1e6

    def _queries(self, num_bytes: int) -> int:
        """Return the address of random queries: any part of the pool will do."""
        return int(self.data.data.ptr) if num_bytes <= self.data.nbytes else self.memory.reserve("query", num_bytes)

    def _fill(self) -> None:
        """Draw K and V of as many tokens as there are slots: zeros would be read faster."""
        keys = cupy.asarray(tokens.token_keys([tokens.Run(1, 0, self.num_slots)]))
        params = pack(
            kernels.TOKEN_PARAMS,
            keys=keys.data.ptr,
            key=self.data[0].data.ptr,
            value=self.data[1].data.ptr,
            num_tokens=self.num_slots,
            num_layers=1,
            num_kv_heads=self.model.num_kv_heads,
            head_dim=self.model.head_dim,
        )
        draw = kernels.load(kernels.cache_variant("draw_tokens", self.model.bf16), self.device)
        cupy.cuda.Device().synchronize()
        launch(draw, (self.num_slots, 1), 256, params, self.clock.stream)
        self.clock.stream.synchronize()

    @staticmethod
    def _num_sets(num_bytes: int, available: int) -> int:
        return max(1, min(available // num_bytes, -(-ROTATE_BYTES // num_bytes) + 1))

    @staticmethod
    def _num_launches(sets: int, num_bytes: int) -> int:
        return max(sets, 8 if num_bytes < 2**30 else 3)


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
    pool = Pool(shape, contiguous=contiguous, bf16=False, stream=stream)
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
    """Decode while blocks cross the host link; microseconds of a layer.

    Attributes:
        alone_us, out_us, in_us: without swaps, beside swap-outs, beside swap-ins.
        lasted: whether the swaps outlasted what was measured; else the figures say nothing.
    """

    alone_us: float
    out_us: float
    in_us: float
    lasted: bool


def decode_beside_swaps(bench: Bench, point: Point, shape: CacheShape, rounds: int = 4) -> BesideFigures:
    """Measure decode while all blocks of a pool go to the host, and while they come back, ``rounds`` times."""
    pool = Pool(shape, contiguous=False, bf16=False, stream=cupy.cuda.Stream(non_blocking=True))
    blocks = range(min(shape.num_blocks, shape.num_host_blocks))
    prepared = bench.prepare(point, 16, Addressing.PAGED)
    graph, count = bench.clock.capture(prepared.launches), len(prepared.launches)
    alone = bench.clock.replay(graph, count)
    beside, lasted = [], True
    for ops in ([SwapOut(block, block) for block in blocks], [SwapIn(block, block) for block in blocks]):
        (batch,) = batches(BlockOps(ops))
        for _ in range(rounds):  # enqueued: they go on while decode is measured
            pool.perform(batch)
        beside.append(bench.clock.replay(graph, count))
        lasted = lasted and not pool.link.done
        pool.synchronize()
    return BesideFigures(alone, beside[0], beside[1], lasted)


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


def _calls(function: Callable[[int], None], count: int) -> list[Callable[[], None]]:
    def call(index: int) -> Callable[[], None]:
        return lambda: function(index)

    return [call(index) for index in range(count)]
