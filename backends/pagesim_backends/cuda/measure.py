"""Measures attention on the GPU that is there: decode beside its ceiling and its contiguous twin, and prefill.

Every time is that of a launch in a CUDA graph, the median over replays. A graph goes through the layers of a pool
that is laid out as the backend lays out its own and is far larger than the L2 cache, with blocks from all over it.
The ceiling is the time of a kernel that reads as many bytes and does nothing else, measured in the same process:
the honest floor of decode attention, which writes almost nothing.
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

from pagesim.errors import BackendError
from pagesim_backends import tokens
from pagesim_backends.cache_shape import CacheShape
from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.attention import Decode, DecodeBuffers, Prefill
from pagesim_backends.cuda.backend import NUM_TRIALS, TRIAL_BYTES, Buffers
from pagesim_backends.cuda.batch import PREFILL_ITEM
from pagesim_backends.cuda.kernels import PREFILL_ROWS, Addressing, PoolView
from pagesim_backends.cuda.launch import launch, pack
from pagesim_backends.cuda.plan import DecodePlan
from pagesim_backends.cuda.pool import ELEMENT_BYTES, Layout

Array = Any  # cupy.ndarray

ROTATE_BYTES: Final = 256 * 2**20
"""What the layers and sets of blocks of one measurement hold at least: several times an L2 cache."""


@dataclass(frozen=True)
class Model:
    """Heads and layers of a model, as attention sees them."""

    name: str
    num_query_heads: int
    num_kv_heads: int
    head_dim: int
    bf16: bool = False
    num_layers: int = 32

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's K and V in one layer."""
        return 2 * self.num_kv_heads * self.head_dim * ELEMENT_BYTES


OPT_13B: Final = Model("opt-13b", 40, 40, 128, num_layers=40)
LLAMA_3_8B: Final = Model("llama-3-8b", 32, 8, 128)
SMALL: Final = Model("small", 8, 2, 64, num_layers=2)
"""Of no use but to see that everything runs."""


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
        num_layers: of the pool, fewer than the model's where the batch would not fit.
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
    num_layers: int
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
        num_layers: of the pool.
        launches: one for each layer, over different sets of blocks.
    """

    plan: DecodePlan
    plan_us: float
    num_layers: int
    launches: list[Callable[[], None]]


class Bench:
    """A pool of one model, full of random numbers, and the attention kernels over it.

    Args:
        model: whose heads and layers.
        pool_bytes: of all layers together.
        clock: takes the times.
        rotate_bytes: see ``ROTATE_BYTES``.
    """

    def __init__(self, model: Model, pool_bytes: int, clock: Clock, *, rotate_bytes: int = ROTATE_BYTES) -> None:
        self.model = model
        self.rotate_bytes = rotate_bytes
        self.clock = clock
        self.device = cupy.cuda.Device().id
        self.num_sms = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
        self.data = cupy.empty(pool_bytes // model.token_bytes * model.token_bytes // ELEMENT_BYTES, np.uint16)
        self.memory = Buffers()
        self._fill()

    def views(self, block_size: int, num_layers: int, *, contiguous: bool = False) -> list[PoolView]:
        """Return each layer of the pool, laid out as the backend does for a policy with such blocks."""
        model = self.model
        shape = CacheShape(
            self._num_blocks(block_size, num_layers),
            block_size,
            0,
            num_layers,
            model.num_query_heads,
            model.num_kv_heads,
            model.head_dim,
        )
        layout = Layout.chosen(shape, shape.num_blocks, contiguous=contiguous)
        return [layout.view(int(self.data.data.ptr), layer, block_size) for layer in range(num_layers)]

    def _num_blocks(self, block_size: int, num_layers: int) -> int:
        return int(self.data.nbytes) // (num_layers * block_size * self.model.token_bytes)

    def decode(self, point: Point, block_size: int = 16, seed: int = 0) -> DecodeFigures:
        """Measure one batch: the ceiling, the kernel over shuffled blocks, its twin over runs of slots."""
        times = {}
        for addressing, early in ((Addressing.PAGED, True), (Addressing.PAGED, False), (Addressing.CONTIGUOUS, True)):
            prepared = self.prepare(point, block_size, addressing, seed=seed, early=early)
            times[addressing, early] = self.clock.median(prepared.launches)
            if (addressing, early) == (Addressing.PAGED, True):
                chosen = prepared
        return DecodeFigures(
            point=point.name,
            model=self.model.name,
            num_sequences=len(point.lengths),
            mib=point.num_bytes / 2**20,
            block_size=block_size,
            num_layers=chosen.num_layers,
            ceiling_us=self.ceiling(point.num_bytes),
            early_ceiling_us=self.ceiling(point.num_bytes, early=True),
            paged_us=times[Addressing.PAGED, True],
            ordinary_us=times[Addressing.PAGED, False],
            contiguous_us=times[Addressing.CONTIGUOUS, True],
            form=f"{chosen.plan.form.num_warps}x{chosen.plan.form.blocks_per_sm}",
            items=len(chosen.plan.items),
            max_splits=chosen.plan.max_splits,
            plan_us=chosen.plan_us,
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
        sets = max(1, min(whole // num_bytes, -(-self.rotate_bytes // num_bytes) + 1))
        best = float("inf")
        for threads in (256, 512, 1024):
            tiles = -(-vectors // (threads * 8))
            for grid in sorted({min(tiles, self.num_sms * most // threads) for most in (2048, 1024)} | {tiles}):

                def read(index: int, grid: int = grid, threads: int = threads) -> None:
                    offset = index % sets * num_bytes // 256 * 256
                    source = self.data.data.ptr + min(offset, (whole - num_bytes) // 256 * 256)
                    params = pack(kernels.READ_PARAMS, source=source, sink=sink.data.ptr, num_vectors=vectors)
                    launch(kernel, (grid, 1), threads, params, self.clock.stream, early=early)

                best = min(best, self.clock.median(calls(read, max(sets, 8 if num_bytes < 2**30 else 3))))
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
        model, lengths = self.model, np.array(point.lengths, np.int64)
        contiguous = addressing is Addressing.CONTIGUOUS
        if addressing is Addressing.PAGED and block_size < kernels.CHUNK:
            addressing = Addressing.PAGED_SMALL
        decode = Decode(
            model.num_query_heads, model.num_kv_heads, model.head_dim, bf16=model.bf16, addressing=addressing
        )
        blocks = -(-lengths // block_size)
        used = int(blocks.sum())
        num_layers, sets, entries = self._spread(point, used, block_size, seed)
        first = np.cumsum(blocks) - blocks
        tables = first * block_size if contiguous else first
        views = self.views(block_size, num_layers, contiguous=contiguous)
        buffers = DecodeBuffers(self.memory, model.head_dim)
        rows = len(lengths) * model.num_query_heads * model.head_dim * ELEMENT_BYTES
        query, output = self._queries(rows), self.memory.reserve("output", rows)

        def attend(plan: DecodePlan, items: int, index: int) -> None:
            # A set is its own part of the block tables; without tables, its own part of the pool.
            turn, layer = index // num_layers % sets, index % num_layers
            place, tables_at = views[layer], entries + turn * used * 4
            if contiguous:
                jump = turn * used * block_size * place.token_stride * ELEMENT_BYTES
                place, tables_at = replace(place, key=place.key + jump, value=place.value + jump), entries
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
            return calls(partial(attend, plan, items), count)

        trial = Clock(NUM_TRIALS, self.clock.stream)
        count = num_layers * sets
        if plan_by is None:  # the choice is made once for many steps
            tried = min(count, -(-TRIAL_BYTES // point.num_bytes))
            decode.planner.plan(lengths, tables, lambda plan: trial.median(launches(plan, tried)))
        started = time.perf_counter()
        plan = decode.planner.plan(lengths, tables) if plan_by is None else plan_by(decode, tables)
        plan_us = (time.perf_counter() - started) * 1e6
        return Prepared(plan, plan_us, num_layers, launches(plan, max(count, 3)))

    def _spread(self, point: Point, used: int, block_size: int, seed: int) -> tuple[int, int, int]:
        """Return the layers of the pool, the sets of blocks that a batch goes through and the address of their tables.

        Args:
            point: the batch; used: its blocks.
            block_size: of them.
            seed: of the order of all blocks of the pool, from which the sets are taken.

        Raises BackendError if not even one layer of the batch fits.
        """
        layer_bytes = used * block_size * self.model.token_bytes
        num_layers = max(1, min(self.model.num_layers, self.data.nbytes // layer_bytes))
        total = self._num_blocks(block_size, num_layers)
        if used > total:
            raise BackendError(f"{point.name} needs {used} blocks of {block_size} and the pool has {total}")
        sets = min(total // used, -(-self.rotate_bytes // (num_layers * point.num_bytes)))
        blocks = np.random.default_rng(seed).permutation(total)[: used * sets].astype(np.int32)
        return num_layers, sets, self.memory.send("block_tables", blocks, self.clock.stream)

    def prefill(self, num_tokens: int, stored: int, block_size: int = 16) -> float:
        """Return the Tflop/s of prefill attention for a chunk after ``stored`` tokens, counting causal pairs."""
        model = self.model
        views = self.views(block_size, model.num_layers)
        sizes = (model.num_query_heads, model.num_kv_heads, model.head_dim)
        kernel = Prefill(*sizes, bf16=model.bf16, addressing=Addressing.PAGED)
        group = model.num_query_heads // model.num_kv_heads
        rows = num_tokens * group
        blocks = range(0, rows, PREFILL_ROWS)[::-1]
        items = np.array([(row, rows, 0, stored, 0, (0, 0, 0)) for row in blocks], PREFILL_ITEM)
        table = np.random.default_rng(0).permutation(self._num_blocks(block_size, model.num_layers))
        table = table[: -(-(stored + num_tokens) // block_size)].astype(np.int32)
        num_bytes = num_tokens * model.num_query_heads * model.head_dim * ELEMENT_BYTES
        query, output = self._queries(num_bytes), self.memory.reserve("output", num_bytes)
        entries = self.memory.send("block_tables", table, self.clock.stream)
        sent = self.memory.send("prefill_items", items, self.clock.stream)
        cupy.cuda.Device().synchronize()

        def attend(index: int) -> None:
            kernel.launch(sent, len(items), views[index % len(views)], query, output, entries, self.clock.stream)

        microseconds = self.clock.median(calls(attend, 5))
        pairs = num_tokens * stored + num_tokens * (num_tokens + 1) // 2
        return 4 * pairs * model.num_query_heads * model.head_dim / microseconds / 1e6

    def _queries(self, num_bytes: int) -> int:
        """Return the address of random queries: any part of the pool will do."""
        return int(self.data.data.ptr) if num_bytes <= self.data.nbytes else self.memory.reserve("query", num_bytes)

    def _fill(self) -> None:
        """Draw K and V of as many tokens as one layer would have room for: zeros would be read faster."""
        num_tokens = self.data.nbytes // self.model.token_bytes
        keys = cupy.asarray(tokens.token_keys([tokens.Run(1, 0, num_tokens)]))
        halves = self.data.reshape(2, -1)
        params = pack(
            kernels.TOKEN_PARAMS,
            keys=keys.data.ptr,
            key=halves[0].data.ptr,
            value=halves[1].data.ptr,
            num_tokens=num_tokens,
            num_layers=1,
            num_kv_heads=self.model.num_kv_heads,
            head_dim=self.model.head_dim,
        )
        draw = kernels.load(kernels.cache_variant("draw_tokens", self.model.bf16), self.device)
        cupy.cuda.Device().synchronize()
        launch(draw, (num_tokens, 1), 256, params, self.clock.stream)
        self.clock.stream.synchronize()


def calls(function: Callable[[int], None], count: int) -> list[Callable[[], None]]:
    """Return ``function`` called with 0, 1, ... ``count - 1``."""

    def call(index: int) -> Callable[[], None]:
        return lambda: function(index)

    return [call(index) for index in range(count)]
