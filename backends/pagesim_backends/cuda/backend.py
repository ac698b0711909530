"""Executes steps on an NVIDIA GPU: real blocks are copied, swapped, written and attended to, and timed.

There is no model to run: q, K and V of a token come from a hash (``tokens.py``), in all layers, so that
every policy computes the same attention. What is measured is what a policy changes: moving blocks, storing
K and V, attention over the whole context. What no policy changes, the linear layers, is priced by the cost
model and added, so that a run's tables can be read beside the cost model's.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

from pagesim.backend import Machine, Step, StepResult
from pagesim.errors import BackendError, ConfigError
from pagesim.units import ticks
from pagesim_backends.cache_shape import CacheShape
from pagesim_backends.errors import UnavailableError

try:
    import cupy
except ImportError:
    raise UnavailableError(
        "backend cuda needs CuPy; install the extra that fits the driver: pip install 'pagesim[cuda13]'"
    ) from None

from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.attention import Decode, DecodeBuffers, Prefill, check_sizes
from pagesim_backends.cuda.batch import Batch, Batcher
from pagesim_backends.cuda.kernels import Addressing, Form
from pagesim_backends.cuda.launch import launch, pack
from pagesim_backends.cuda.plan import DecodePlan
from pagesim_backends.cuda.pool import ELEMENT_BYTES, Pool
from pagesim_backends.moves import batches

Array = Any  # cupy.ndarray
Part = Literal["copies", "swaps", "prefill", "attention"]

SCRATCH_BYTES: Final = 2**30
"""Bound of the buffers for q, K, V and outputs; layers are computed in passes that fit."""

MAX_GRAPHS: Final = 512

TRIAL_BYTES: Final = 2**30
NUM_TRIALS: Final = 3
"""K and V that a trial of a plan reads, where the model has as many layers, and how often."""

DTYPES: Final = {"float16": False, "bfloat16": True}

FAILURES: Final = (
    cupy.cuda.memory.OutOfMemoryError,
    cupy.cuda.runtime.CUDARuntimeError,
    cupy.cuda.driver.CUDADriverError,
)


class Pricer(Protocol):
    """Says what the parts of a step take that are not executed."""

    def execute(self, step: Step) -> StepResult:
        """Return the price of a step."""
        ...


@dataclass(frozen=True)
class Measured:
    """What the last step did on this machine.

    Attributes:
        device_s: seconds between device events around everything but drawing the tokens.
        host_s: seconds that the host spent on planning and launching; not part of the duration.
        read_bytes: K and V that attention had to read, each once.
        copied_bytes, swapped_out_bytes, swapped_in_bytes: moved by the plan.
    """

    device_s: float = 0.0
    host_s: float = 0.0
    read_bytes: int = 0
    copied_bytes: int = 0
    swapped_out_bytes: int = 0
    swapped_in_bytes: int = 0


class Cuda:
    """The same steps on an NVIDIA GPU: a real KV pool, paged attention kernels, measured durations.

    Args:
        num_blocks, block_size: of the policy's pool; block sizes are powers of two.
        num_host_blocks: of the host pool, 0 without one.
        num_layers, num_query_heads, num_kv_heads, head_dim: of the model, on this GPU.
        dtype: float16 or bfloat16.
        contiguous: whether tables are runs of adjacent blocks, so that no table is read.
        seed: of the hash that gives q, K and V.
        linear: prices the layers that are not executed; None: only what is measured counts.
        tune: try the best estimated plans for each kind of batch on the device and keep the fastest.
        keep_outputs: keep the attention output of every token, for tests.

    Raises UnavailableError where the GPU, the sizes or the memory do not serve, before any work.
    """

    exclusive = True
    """One run at a time: a second one on the same GPU would be measured too."""

    measures = True
    """Durations are measured: no other run gives the same ones, so its steps are worth keeping."""

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        num_layers: int,
        num_query_heads: int,
        num_kv_heads: int,
        head_dim: int,
        num_host_blocks: int = 0,
        dtype: str = "float16",
        contiguous: bool = False,
        seed: int = 0,
        linear: Pricer | None = None,
        tune: bool = True,
        keep_outputs: bool = False,
    ) -> None:
        check_device()
        if dtype not in DTYPES:
            raise UnavailableError(
                f"backend cuda computes in {' or '.join(DTYPES)}, not in {dtype!r}; set memory.dtype"
            )
        if block_size & (block_size - 1) or block_size > 256:
            raise UnavailableError(
                f"backend cuda serves block sizes 1, 2, 4, ... 256, not {block_size}; set the row's block_size"
            )
        check_sizes(num_query_heads, num_kv_heads, head_dim)
        self.shape = CacheShape(
            num_blocks, block_size, num_host_blocks, num_layers, num_query_heads, num_kv_heads, head_dim
        )
        self.bf16 = DTYPES[dtype]
        self.linear = linear
        self.tune = tune
        self.keep_outputs = keep_outputs
        self.outputs: dict[tuple[int, int], npt.NDArray[np.uint16]] = {}
        self.last = Measured()
        gc.collect()  # what the run before this one held
        cupy.get_default_memory_pool().free_all_blocks()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        addressing = _addressing(block_size, contiguous)
        self.pool = Pool(self.shape, contiguous=contiguous, bf16=self.bf16, stream=self.stream)
        sizes = (num_query_heads, num_kv_heads, head_dim)
        self.decode = Decode(*sizes, bf16=self.bf16, addressing=addressing)
        self.prefill = Prefill(*sizes, bf16=self.bf16, addressing=addressing)
        self._batcher = Batcher(seed, block_size, contiguous=contiguous, group=self.shape.group)
        device = cupy.cuda.Device().id
        self._draw = kernels.load(kernels.cache_variant("draw_tokens", self.bf16), device)
        self._write = kernels.load(kernels.cache_variant("write_tokens", self.bf16), device)
        self.decode.kernel(self.decode.planner.forms[0])  # if one of them compiles, all do: said before any work
        self._buffers = Buffers()
        self._decode_buffers = DecodeBuffers(self._buffers, head_dim)
        self._graphs: dict[tuple[object, ...], Any] = {}
        self._graph_generation = 0

    @classmethod
    def from_machine(cls, machine: Machine, *, linear: str = "cost_model", tune: bool = True) -> Cuda:
        """Return the backend for one row of an experiment.

        Args:
            machine: gives model, pool and seed.
            linear: ``cost_model`` adds the price of the linear layers and of an iteration's constant;
                ``none`` counts only what is measured.
            tune: see the constructor.

        Raises ConfigError on another ``linear``; UnavailableError as the constructor.
        """
        if linear not in ("cost_model", "none"):
            raise ConfigError(f"backend.linear: {linear!r} is unknown; allowed: cost_model, none")
        pricer: Pricer | None = None
        if linear == "cost_model":
            from pagesim_backends.cost_model import CostModel

            pricer = CostModel.from_machine(machine)
        model, degree = machine.model, machine.tensor_parallel
        return cls(
            num_blocks=machine.num_blocks,
            block_size=machine.block_size,
            num_host_blocks=machine.num_host_blocks,
            num_layers=model.num_layers,
            num_query_heads=model.num_heads // degree,
            num_kv_heads=max(model.num_kv_heads // degree, 1),
            head_dim=model.head_dim,
            dtype=machine.dtype,
            contiguous=machine.contiguous,
            seed=machine.seed,
            linear=pricer,
            tune=tune,
        )

    def execute(self, step: Step) -> StepResult:
        """Perform one step and return what the device measured, and the price of the linear layers.

        Raises BackendError if the device runs out of memory or a kernel fails.
        """
        started = time.perf_counter()
        marks = Marks(self.stream)
        try:
            begun = self._begin(step)
            moved = self._move(step, marks)
            if begun is not None:
                self._compute(begun, marks)
            host = time.perf_counter() - started
            self.stream.synchronize()
        except FAILURES as error:
            raise BackendError(f"the GPU failed in a step of {step.num_tokens} tokens: {error}") from None
        spent = marks.seconds()
        read = 0 if begun is None else self._context_bytes(step, begun.batch)
        self.last = Measured(sum(spent.values()), host, read, *moved)
        return self._result(step, {part: ticks(seconds) for part, seconds in spent.items()})

    def close(self) -> None:
        """Wait for transfers that still run."""
        self.pool.synchronize()

    def _move(self, step: Step, marks: Marks) -> tuple[int, int, int]:
        """Enqueue the plan's moves; return bytes copied, swapped out and swapped in."""
        moved = {"copy": 0, "swap_out": 0, "swap_in": 0}
        for batch in batches(step.ops):
            work = self.pool.prepare(batch)
            with marks.during("copies" if batch.kind == "copy" else "swaps"):
                for enqueue in work:
                    enqueue()
            moved[batch.kind] += len(batch.blocks) * self.pool.block_bytes
        return moved["copy"], moved["swap_out"], moved["swap_in"]

    def _begin(self, step: Step) -> Begun | None:
        """Send what a step computes with, plan it and draw the tokens of its first layers; None if it has no tokens.

        Before its moves, though they come first: while the device draws, the host enqueues them, and no event
        around them waits for the host.
        """
        batch = self._batcher.batch(step)
        if not batch.num_tokens:
            return None
        sent = self._send(batch)
        per_layer = sent.rows * 2 * (self.shape.num_query_heads + self.shape.num_kv_heads) * self.shape.head_dim
        count = max(1, min(self.shape.num_layers, SCRATCH_BYTES // (per_layer * ELEMENT_BYTES)))
        scratch = self._scratch(sent.rows, count)
        plan = None
        if len(batch.lengths):
            trial = partial(self._try, batch, sent, scratch) if self.tune else None
            plan = self.decode.planner.plan(batch.lengths, batch.tables, trial)
            sent = self._send_plan(plan, batch.num_prefill_tokens, sent)
        num_layers = self.shape.num_layers
        passes = [range(first, min(first + count, num_layers)) for first in range(0, num_layers, count)]
        self._draw_tokens(sent, scratch, passes[0])
        return Begun(batch, sent, scratch, plan, passes)

    def _compute(self, begun: Begun, marks: Marks) -> None:
        """Enqueue writing and attention."""
        sent, scratch, plan = begun.sent, begun.scratch, begun.plan
        for run in begun.passes:
            if run != begun.passes[0]:
                self._draw_tokens(sent, scratch, run)
            if sent.num_prefill_items:
                graph = self._graph(
                    (sent.num_prefill_items, sent.rows, run), partial(self._prompts, sent, scratch, run)
                )
                with marks.during("prefill"):
                    graph.launch(self.stream)
            if plan is not None:
                stores = not sent.num_prefill_items
                graph = self._graph(
                    (plan.form, sent.num_items, sent.rows, run, stores),
                    partial(self._decodes, plan.form, sent, scratch, run, stores),
                )
                with marks.during("attention"):
                    graph.launch(self.stream)
            if self.keep_outputs:
                self._keep(begun.batch, scratch, run)

    def _context_bytes(self, step: Step, batch: Batch) -> int:
        """Return the bytes of K and V that the attention of a step reads."""
        context = int(batch.lengths.sum())
        context += sum(chunk.sequence.num_stored + chunk.num_tokens for chunk in step.prefills)
        return context * self.pool.block_bytes // self.shape.block_size

    def _send(self, batch: Batch) -> Sent:
        """Copy the step's arrays to the device, their lengths rounded up so that graphs are few.

        Rows past the tokens are drawn and written to the spare slot.
        """
        rows = _bucket(batch.num_tokens)
        padding = rows - batch.num_tokens
        keys = np.concatenate((batch.keys, np.zeros(padding, np.uint32)))
        slots = np.concatenate((batch.slots, np.full(padding, self.pool.spare_slot, np.int32)))
        prompts = _padded(batch.prefill_items)
        return Sent(
            keys=self._buffers.send("keys", keys, self.stream),
            slots=self._buffers.send("slots", slots, self.stream),
            block_tables=self._buffers.send("block_tables", batch.block_tables, self.stream),
            prefill_items=self._buffers.send("prefill_items", prompts, self.stream),
            num_prefill_items=len(prompts),
            rows=rows,
        )

    def _send_plan(self, plan: DecodePlan, first_row: int, sent: Sent) -> Sent:
        """Copy the work items of a plan to the device, and empty ones; decodes are rows from ``first_row`` on."""
        self.decode.kernel(plan.form)  # compiled before a capture begins
        items = _padded(plan.items)
        items["sequence"] += first_row
        self._decode_buffers.reserve(_bucket(max(plan.num_slots, 1)), plan.item_heads)
        return replace(sent, items=self._buffers.send("items", items, self.stream), num_items=len(items))

    def _try(self, batch: Batch, sent: Sent, scratch: Scratch, plan: DecodePlan) -> float:
        """Return the milliseconds of decode attention by a plan, over several layers: more than the L2 cache holds.

        Queries are whatever is in their buffer, and the newest tokens are not stored yet: outputs are thrown away.
        """
        self.stream.synchronize()  # what was sent before from the same pinned memory has arrived
        sent = self._send_plan(plan, batch.num_prefill_tokens, sent)
        per_layer = int(batch.lengths.sum()) * self.pool.block_bytes // self.shape.block_size // self.shape.num_layers
        count = min(max(-(-TRIAL_BYTES // max(per_layer, 1)), 1), self.shape.num_layers)
        self.stream.begin_capture()
        try:
            for layer in range(count):
                self._attend(plan.form, sent, scratch.query, scratch.output, layer)
        finally:
            graph = self.stream.end_capture()
        marks = []
        for _ in range(NUM_TRIALS + 1):
            graph.launch(self.stream)
            marks.append(cupy.cuda.Event())
            marks[-1].record(self.stream)
        self.stream.synchronize()
        times = [cupy.cuda.get_elapsed_time(begin, end) for begin, end in itertools.pairwise(marks)]
        return float(np.median(times))

    def _scratch(self, rows: int, layers: int) -> Scratch:
        dim = self.shape.head_dim * ELEMENT_BYTES
        query, kv = (rows * heads * dim for heads in (self.shape.num_query_heads, self.shape.num_kv_heads))
        return Scratch(
            query=self._buffers.reserve("query", layers * query),
            output=self._buffers.reserve("output", layers * query),
            key=self._buffers.reserve("key", layers * kv),
            value=self._buffers.reserve("value", layers * kv),
            query_bytes=query,
            kv_bytes=kv,
        )

    def _draw_tokens(self, sent: Sent, scratch: Scratch, layers: range) -> None:
        params = pack(
            kernels.TOKEN_PARAMS,
            keys=sent.keys,
            query=scratch.query,
            key=scratch.key,
            value=scratch.value,
            num_tokens=sent.rows,
            num_layers=len(layers),
            first_layer=layers.start,
            num_query_heads=self.shape.num_query_heads,
            num_kv_heads=self.shape.num_kv_heads,
            head_dim=self.shape.head_dim,
        )
        launch(self._draw, (sent.rows, len(layers)), 256, params, self.stream)

    def _prompts(self, sent: Sent, scratch: Scratch, layers: range) -> None:
        """Enqueue storing all tokens of the step and the attention of its prompts, in some layers."""
        for index, layer in enumerate(layers):
            self._store(sent, scratch, index, layer)
            offset = index * scratch.query_bytes
            self.prefill.launch(
                sent.prefill_items,
                sent.num_prefill_items,
                self.pool.view(layer),
                scratch.query + offset,
                scratch.output + offset,
                sent.block_tables,
                self.stream,
            )

    def _decodes(self, form: Form, sent: Sent, scratch: Scratch, layers: range, stores: bool) -> None:
        """Enqueue the attention of decodes in some layers, and storing their tokens where that is not done yet."""
        for index, layer in enumerate(layers):
            if stores:
                self._store(sent, scratch, index, layer)
            offset = index * scratch.query_bytes
            self._attend(form, sent, scratch.query + offset, scratch.output + offset, layer)

    def _attend(self, form: Form, sent: Sent, query: int, output: int, layer: int) -> None:
        self.decode.launch(
            form,
            sent.items,
            sent.num_items,
            self._decode_buffers,
            self.pool.view(layer),
            query,
            output,
            sent.block_tables,
            self.stream,
        )

    def _store(self, sent: Sent, scratch: Scratch, index: int, layer: int) -> None:
        """Enqueue writing K and V of the step's tokens to their slots; ``index`` is the layer's in the scratch."""
        view = self.pool.view(layer)
        params = pack(
            kernels.WRITE_PARAMS,
            key=scratch.key + index * scratch.kv_bytes,
            value=scratch.value + index * scratch.kv_bytes,
            key_pool=view.key,
            value_pool=view.value,
            slots=sent.slots,
            block_stride=view.block_stride,
            token_stride=view.token_stride,
            head_stride=view.head_stride,
            num_tokens=sent.rows,
            num_kv_heads=self.shape.num_kv_heads,
            head_dim=self.shape.head_dim,
            log2_block_size=view.block_size.bit_length() - 1,
        )
        vectors = sent.rows * self.shape.num_kv_heads * self.shape.head_dim // 8
        launch(self._write, (-(-vectors // 256), 1), 256, params, self.stream, early=True)

    def _graph(self, name: tuple[object, ...], enqueue: Callable[[], None]) -> Any:
        """Return a graph of what ``enqueue`` enqueues, captured when a step of its sizes first occurs.

        What a graph holds are addresses and sizes of launches, not the plan: any step of the same sizes,
        rounded up, replays it. The host's time to capture is no part of what is measured.
        """
        if self._graph_generation != self._buffers.generation:
            self._graphs.clear()
            self._graph_generation = self._buffers.generation
        graph = self._graphs.get(name)
        if graph is None:
            self.stream.begin_capture()
            try:
                enqueue()
            finally:
                graph = self.stream.end_capture()
            graph.upload(self.stream)
            if len(self._graphs) == MAX_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[name] = graph
        return graph

    def _keep(self, batch: Batch, scratch: Scratch, layers: range) -> None:
        """Keep the outputs of each token, as bits, under (its key, layer)."""
        heads, dim = self.shape.num_query_heads, self.shape.head_dim
        rows = scratch.query_bytes // (heads * dim * ELEMENT_BYTES)
        self.stream.synchronize()
        held = self._buffers.read("output", len(layers) * scratch.query_bytes).view(np.uint16)
        held = held.reshape(len(layers), rows, heads, dim)
        for row, key in enumerate(batch.keys.tolist()):
            for index, layer in enumerate(layers):
                self.outputs[key, layer] = held[index, row].copy()

    def _result(self, step: Step, spent: dict[Part, int]) -> StepResult:
        attention, copies, swaps = spent.get("attention", 0), spent.get("copies", 0), spent.get("swaps", 0)
        prefill = spent.get("prefill", 0)
        weights = overhead = 0
        num_prefilled = sum(chunk.num_tokens for chunk in step.prefills)
        if self.linear is not None and step.num_tokens:
            decodes = self.linear.execute(
                Step(num_decodes=step.num_decodes, table_entries=step.table_entries, padding_tokens=step.padding_tokens)
            )
            weights, overhead = decodes.weights, decodes.overhead
            if num_prefilled:
                padded = Step(num_decodes=step.num_decodes, padding_tokens=step.padding_tokens + num_prefilled)
                prefill += self.linear.execute(padded).weights - weights
        recompute = 0
        if num_prefilled:
            recompute = prefill * sum(chunk.num_recomputed for chunk in step.prefills) // num_prefilled
        duration = weights + attention + prefill + copies + swaps + overhead
        if not duration:
            duration = overhead = 1
        return StepResult(duration, weights, attention, prefill - recompute, recompute, copies, swaps, overhead)


@dataclass(frozen=True)
class Sent:
    """Device addresses of a step's arrays.

    Attributes:
        keys, slots: one a row.
        block_tables, prefill_items: see ``Batch``.
        num_prefill_items: empty ones included.
        rows: tokens, padding included.
        items, num_items: of the decodes' plan, empty ones included.
    """

    keys: int
    slots: int
    block_tables: int
    prefill_items: int
    num_prefill_items: int
    rows: int
    items: int = 0
    num_items: int = 0


@dataclass(frozen=True)
class Scratch:
    """Device addresses of q, K, V and outputs of several layers, and the bytes of one layer."""

    query: int
    output: int
    key: int
    value: int
    query_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class Begun:
    """A step whose arrays are on the device.

    Attributes:
        batch, sent, scratch: see there.
        plan: of its decodes, None without any.
        passes: layers that are computed together.
    """

    batch: Batch
    sent: Sent
    scratch: Scratch
    plan: DecodePlan | None
    passes: list[range]


class Buffers:
    """Device buffers by name, which grow and never shrink.

    ``generation`` rises whenever one of them moves: a captured graph that holds its address is void.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._held: dict[str, Array] = {}
        self._pinned: dict[str, Any] = {}
        self._sent: dict[str, Any] = {}

    def reserve(self, name: str, num_bytes: int, *, zero: bool = False) -> int:
        """Return the address of a buffer of at least so many bytes; what it held is lost if it moves."""
        held = self._held.get(name)
        if held is None or held.nbytes < num_bytes:
            self._held.pop(name, None)
            size = max(num_bytes + num_bytes // 4, 4096)
            self._held[name] = cupy.zeros(size, np.uint8) if zero else cupy.empty(size, np.uint8)
            cupy.cuda.Device().synchronize()
            self.generation += 1
        return self.address(name)

    def address(self, name: str) -> int:
        """Return the address of a buffer, 0 if there is none."""
        held = self._held.get(name)
        return 0 if held is None else int(held.data.ptr)

    def send(self, name: str, values: npt.NDArray[Any], stream: Any) -> int:
        """Copy an array to its buffer, through pinned memory, and return the address."""
        if not values.nbytes:
            return self.address(name)
        address = self.reserve(name, values.nbytes)
        pinned = self._pinned.get(name)
        if pinned is None or pinned.nbytes < values.nbytes:
            size = self._held[name].nbytes
            pinned = self._pinned[name] = np.frombuffer(cupy.cuda.alloc_pinned_memory(size), np.uint8, size)
        pinned[: values.nbytes] = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
        runtime = cupy.cuda.runtime
        runtime.memcpyAsync(address, pinned.ctypes.data, values.nbytes, runtime.memcpyHostToDevice, stream.ptr)
        return address

    def read(self, name: str, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Return the first bytes of a buffer."""
        held: npt.NDArray[np.uint8] = cupy.asnumpy(self._held[name][:num_bytes])
        return held


class Marks:
    """Device events around the parts of a step."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._spans: list[tuple[Part, Any, Any]] = []

    def during(self, part: Part) -> Span:
        """Return a context; what is enqueued in it counts for ``part``."""
        return Span(part, self._stream, self._spans.append)

    def seconds(self) -> dict[Part, float]:
        """Return the seconds of each part; the stream has been synchronized."""
        spent: dict[Part, float] = {}
        for part, begin, end in self._spans:
            spent[part] = spent.get(part, 0.0) + cupy.cuda.get_elapsed_time(begin, end) / 1e3
        return spent


class Span:
    """Records an event at its beginning and one at its end."""

    def __init__(self, part: Part, stream: Any, done: Callable[[tuple[Part, Any, Any]], None]) -> None:
        self._part = part
        self._stream = stream
        self._done = done
        self._begin = cupy.cuda.Event()

    def __enter__(self) -> None:
        self._begin.record(self._stream)

    def __exit__(self, *failure: object) -> None:
        end = cupy.cuda.Event()
        end.record(self._stream)
        self._done((self._part, self._begin, end))


def _bucket(count: int) -> int:
    """Return ``count`` rounded up to one of eight sizes between two powers of two, so that graphs are few."""
    step = max(1 << max(count.bit_length() - 4, 0), 1)
    return -(-count // step) * step


def _padded(items: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return items and empty ones up to the next of ``_bucket``'s sizes; none stay none."""
    padded = np.zeros(_bucket(len(items)) if len(items) else 0, items.dtype)
    padded[: len(items)] = items
    return padded


def _addressing(block_size: int, contiguous: bool) -> Addressing:
    if contiguous:
        return Addressing.CONTIGUOUS
    return Addressing.PAGED if block_size >= kernels.CHUNK else Addressing.PAGED_SMALL


def check_device() -> None:
    """Raise UnavailableError unless there is a GPU that the kernels run on."""
    none = "backend cuda needs an NVIDIA GPU, and CuPy sees none"
    instead = "take backend: cost_model or reference"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if "NoDevice" in str(error):
            raise UnavailableError(f"{none} ({error}); {instead}") from None
        version = cupy.cuda.runtime.runtimeGetVersion() // 1000
        raise UnavailableError(
            f"backend cuda needs a driver that fits this CuPy, which is for CUDA {version} ({error}); install the "
            "extra that fits the driver: cuda12 or cuda13"
        ) from None
    if not count:
        raise UnavailableError(f"{none}; {instead}")
    major, minor = divmod(int(cupy.cuda.Device().compute_capability), 10)
    if major < 8:
        raise UnavailableError(
            f"backend cuda needs a GPU of compute capability 8.0 or higher (Ampere, Ada, Hopper), not {major}.{minor}"
        )


def free_bytes() -> int:
    """Return the free memory of the current device, after giving back what CuPy holds for later."""
    cupy.get_default_memory_pool().free_all_blocks()
    return int(cupy.cuda.runtime.memGetInfo()[0])
