"""One run: an allocator, at one point of a sweep, with one seed. Builds the objects and lets them go."""

from __future__ import annotations

import itertools
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagesim import catalog, metrics, plugins
from pagesim.account import Account
from pagesim.allocators.base import Allocator, Forks, Swaps
from pagesim.backend import Backend, Machine
from pagesim.beams import SeededBeams
from pagesim.blocks import BlockPool
from pagesim.config import AllocatorConfig, ExperimentConfig
from pagesim.engine import Engine, Source
from pagesim.errors import ConfigError, PluginError
from pagesim.journal import Journal
from pagesim.memorylog import DEFAULT_MAX_REQUESTS, DEFAULT_MAX_SLOTS, MemoryLog, SnapshotRecorder
from pagesim.record import EDGE_COUNTERS, INTEGRALS, ROW_GROUP, STATUSES, Record, RequestRows
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Limits, Scheduler
from pagesim.sizing import DTYPE_BYTES, size_memory, size_pool
from pagesim.sources import ClosedSource, OpenSource, RequestFactory
from pagesim.steplog import StepLog
from pagesim.units import TICKS_PER_SECOND
from pagesim.workload import Workload, build_workload

Column = NDArray[np.int64] | NDArray[np.float64] | list[str]
Columns = Mapping[str, Column]


@dataclass(frozen=True)
class RunSpec:
    """What identifies a run within an experiment.

    Attributes:
        name: unique, and usable as a folder's name.
        allocator: name of the row.
        point: dotted sweep key -> value.
        seed: of all random streams.
        config: the experiment at this point.
        base_dir: where plug-ins and traces are looked up first.
    """

    name: str
    allocator: str
    point: dict[str, Any]
    seed: int
    config: ExperimentConfig
    base_dir: Path

    @property
    def row(self) -> AllocatorConfig:
        """The allocator's row; the added bound has none in the file."""
        if self.allocator == "ideal" and self.config.ideal:
            return AllocatorConfig(policy="ideal")
        return self.config.allocators[self.allocator]


@dataclass(frozen=True)
class Outcome:
    """What a run gives: a row of the summary, and tables.

    ``requests`` and ``steps`` give the columns of some rows at a time, as often as they are asked. ``path`` says
    how steps were taken. ``summary`` is empty and ``failure`` says why where the run failed.
    Wall-clock time and memory stand apart, for they vary from run to run.
    """

    name: str
    summary: dict[str, Any] = field(default_factory=dict)
    requests: Iterable[Columns] = ()
    timeline: Columns = field(default_factory=dict)
    steps: Iterable[Columns] = ()
    memory: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    path: str = ""
    num_skipped_rows: int = 0
    wall_s: float = 0.0
    peak_memory_bytes: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Policies:
    """The classes that a row names."""

    allocator: type
    scheduler: type[Scheduler]
    victim: type
    backend: type


def resolve_policies(spec: RunSpec) -> Policies:
    """Return the classes that ``spec`` names. Raises PluginError."""
    config, row = spec.config, spec.row
    return Policies(
        allocator=plugins.resolve("allocator", row.policy, spec.base_dir),
        scheduler=plugins.resolve("scheduler", config.scheduler.policy, spec.base_dir),
        victim=plugins.resolve("victim", row.victim or config.scheduler.victim, spec.base_dir),
        backend=plugins.resolve("backend", config.backend_name, spec.base_dir),
    )


class Run:
    """Everything of one run, built and ready to go.

    Args:
        spec: which one.
        watch: called now and then with (ended requests, simulated ticks).
        folder: where rows wait in temporary files; the system's by default.

    Raises:
        ConfigError, PluginError: where the row, the sizes or the policies do not go together.
    """

    def __init__(
        self, spec: RunSpec, watch: Callable[[int, int], None] | None = None, folder: Path | None = None
    ) -> None:
        config, row = spec.config, spec.row
        self.spec = spec
        self.policies = resolve_policies(spec)
        self.model, self.device = (
            catalog.model(config.model, spec.base_dir),
            catalog.device(config.device, spec.base_dir),
        )
        self.sizing = size_memory(config, self.model, self.device)
        self.sizes = size_pool(self.sizing, row, self.policies.allocator, config.memory.watermark, spec.allocator)
        self.workload = workload_of(spec)
        self.allocator = self._build_allocator()
        self.journal = Journal()
        self.account = Account(self.allocator.pool, self.sizing.num_slots, getattr(self.allocator, "prefixes", None))
        self.scheduler = self._build_scheduler()
        window = self.workload.steady_window if config.measure.window == "steady" else None
        self.memory_log = self._build_memory_log()
        self.recorder = SnapshotRecorder(
            self.account,
            self.journal,
            self.scheduler,
            self.allocator,
            num_bins=config.measure.timeline_bins,
            window=window,
            first_bin=self._first_bin(),
            folder=folder,
        )
        self.recorder.log = self.memory_log
        self.engine = Engine(
            self.scheduler,
            self._build_backend(),
            self._build_source(window),
            self.recorder,
            max_model_len=config.scheduler.max_model_len,
            truncate=config.scheduler.too_long == "truncate",
            horizon=config.horizon,
            watch=watch,
        )
        keeps_steps = config.measure.steps or getattr(self.engine.backend, "measures", False)
        self.step_log = StepLog(self.scheduler, folder) if keeps_steps else None
        if self.step_log is not None:
            self.engine.on_step = self.step_log.note

    def execute(self) -> Outcome:
        """Run to the end and return the figures."""
        started = time.perf_counter()
        self.engine.run()
        record = self.recorder.record(self.block_bytes)
        slo = self.spec.config.slo
        summary = {
            "allocator": self.spec.allocator,
            "policy": self.spec.row.policy,
            "backend": self.spec.config.backend_name,
            "seed": self.spec.seed,
            **self.spec.point,
            **metrics.summarise(record, slo_ttft=slo.ttft, slo_tpot=slo.tpot),
            "oracle": self.is_oracle,
        }
        return Outcome(
            name=self.spec.name,
            summary=summary,
            requests=RequestTable(record),
            timeline=timeline_table(record),
            steps=() if self.step_log is None else self.step_log,
            memory={} if self.memory_log is None else self.memory_log.table(),
            digest=self.workload.digest,
            path=self.engine.path,
            num_skipped_rows=self.workload.skipped_rows,
            wall_s=time.perf_counter() - started,
            peak_memory_bytes=_peak_memory(),
        )

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, on all GPUs together."""
        return self.sizes.block_size * self.sizing.kv_bytes_per_token * self.spec.config.tensor_parallel

    @property
    def is_oracle(self) -> bool:
        """Whether a policy of the run knows the outputs' lengths."""
        return bool(getattr(self.allocator, "oracle", False) or getattr(self.policies.victim, "oracle", False))

    def _pool(self) -> BlockPool:
        sizes = self.sizes
        host = BlockPool(sizes.num_host_blocks, sizes.block_size) if sizes.num_host_blocks else None
        return BlockPool(sizes.num_blocks, sizes.block_size, watermark=sizes.watermark_blocks, host=host)

    def _build_allocator(self) -> Allocator:
        cls = self.policies.allocator
        given = {
            "max_model_len": self.spec.config.scheduler.max_model_len,
            "pin_prefixes": self.spec.config.workload.prefix.pin,
        }
        self._options = {name: value for name, value in given.items() if plugins.accepts(cls, name)}
        self._options |= self.spec.row.options
        allocator: Allocator = plugins.build(cls, self._pool(), **self._options)
        if not isinstance(getattr(allocator, "pool", None), BlockPool):
            raise PluginError(f"{cls.__name__} must keep the pool that it is given as `self.pool`")
        return allocator

    def _build_memory_log(self) -> MemoryLog | None:
        """Return what keeps snapshots of the pool: for all runs where the experiment asks for them.

        Where it says nothing, for the first seed of small pools and not too many requests: the page shows one run of
        each row.
        """
        config, num_slots = self.spec.config, self.sizing.num_slots
        wanted = config.measure.memory_view
        if wanted is None:
            is_small = num_slots <= DEFAULT_MAX_SLOTS and len(self.workload) <= DEFAULT_MAX_REQUESTS
            wanted = is_small and self.spec.seed == config.seeds[0]
        if not wanted:
            return None
        marks = self.workload.arrival_marks
        return MemoryLog(num_slots, Recorder.FIRST_BIN, 0 if marks is None else marks[-1])

    def _first_bin(self) -> int:
        """Return the width of the first bins: what is known of the run's duration saves the finest ones."""
        config, marks = self.spec.config, self.workload.arrival_marks
        if marks is None:
            return Recorder.FIRST_BIN
        duration = marks[-1] if config.horizon is None else min(marks[-1], config.horizon)
        width = Recorder.first_bin_of(duration, config.measure.timeline_bins)
        return width if self.memory_log is None else min(width, self.memory_log.width)

    def build_twin(self) -> Allocator:
        """Return the same allocator over an empty pool."""
        twin: Allocator = self.policies.allocator(self._pool(), **self._options)
        return twin

    def _build_scheduler(self) -> Scheduler:
        scheduler, row = self.spec.config.scheduler, self.spec.row
        limits = Limits(scheduler.max_num_seqs, scheduler.max_num_batched_tokens, scheduler.max_model_len)
        built: Scheduler = plugins.build(
            self.policies.scheduler,
            self.allocator,
            self.account,
            self.journal,
            limits,
            plugins.build(self.policies.victim),
            twin=self.build_twin,
            preemption=self._preemption(row.preemption or scheduler.preemption),
            admission=scheduler.admission,
        )
        return built

    def _preemption(self, wanted: str) -> str:
        """Resolve ``auto``; refuse what the allocator cannot do."""
        can_swap = isinstance(self.allocator, Swaps)
        name = f"allocators.{self.spec.allocator}"
        if wanted == "swap" and not can_swap and self.spec.allocator != "ideal":
            raise ConfigError(f"{name}: preemption: swap needs a policy that swaps; {self.spec.row.policy} does not")
        if wanted == "swap" and can_swap and self.allocator.pool.host is None:
            raise ConfigError(
                f"{name}: preemption: swap needs host memory of at least one block; set memory.host_kv_cache"
            )
        if wanted == "auto":
            return "swap" if can_swap and self.allocator.pool.host is not None else "recompute"
        return wanted if can_swap else "recompute"

    def _build_backend(self) -> Backend:
        config, cls = self.spec.config, self.policies.backend
        machine = Machine(
            model=self.model,
            device=self.device,
            tensor_parallel=config.tensor_parallel,
            dtype=config.memory.dtype,
            dtype_bytes=DTYPE_BYTES[config.memory.dtype],
            kv_bytes_per_token=self.sizing.kv_bytes_per_token,
            block_size=self.sizes.block_size,
            contiguous=bool(getattr(self.policies.allocator, "contiguous", False)),
            num_blocks=self.sizes.num_blocks,
            num_host_blocks=self.sizes.num_host_blocks,
            max_num_seqs=config.scheduler.max_num_seqs,
            max_model_len=config.scheduler.max_model_len,
            seed=self.spec.seed,
        )
        built: Backend = plugins.build(getattr(cls, "from_machine", cls), machine, **config.backend_options)
        return built

    def _build_source(self, window: tuple[int, int] | None) -> Source:
        sampling = self.spec.config.workload.sampling
        num_sequences = sampling.beam_width or sampling.n
        if sampling.beam_width and not isinstance(self.allocator, Forks):
            raise ConfigError(
                f"allocators.{self.spec.allocator}: beams need a policy that forks; {self.spec.row.policy} does not"
            )
        beams = SeededBeams(self.spec.seed, sampling.divergence) if sampling.beam_width else None
        factory = RequestFactory(self.workload, num_sequences=num_sequences, beams=beams, oracle=self.is_oracle)
        if not self.workload.is_closed:
            return OpenSource(factory, window)
        recorder = self.recorder
        if self.spec.config.measure.window == "all":
            return ClosedSource(factory, lambda: True, lambda num_ended, is_last: None)
        first = math.ceil(0.1 * len(factory))

        def progress(num_ended: int, is_last: bool) -> None:
            if is_last:
                recorder.close_window()
            elif num_ended >= first and recorder.window_opened is None:
                recorder.open_window()

        return ClosedSource(factory, lambda: recorder.is_measuring, progress)


def workload_of(spec: RunSpec) -> Workload:
    """Return the workload: the same requests for every allocator of a point and seed."""
    return build_workload(spec.config.workload, spec.seed, spec.base_dir)


@dataclass(frozen=True)
class RequestTable:
    """``requests.parquet``, some rows at a time: one row a request, in the order of arrival."""

    record: Record

    def __iter__(self) -> Iterator[Columns]:
        """Yield the columns of one row group after the other."""
        return map(_request_columns, self.record.chunks(ROW_GROUP))


def _request_columns(rows: RequestRows) -> Columns:
    figures = metrics.request_figures(rows)
    return {
        "request": rows.column("request"),
        "arrival_s": figures.pop("arrival_s"),
        "prompt_tokens": rows.column("prompt_tokens"),
        "output_tokens": rows.column("output_tokens"),
        "num_sequences": rows.column("num_sequences"),
        "status": [STATUSES[code] for code in rows.column("status").tolist()],
        "reason": [rows.reasons[reason] for reason in rows.column("reason").tolist()],
        "measured": rows.column("measured"),
        **figures,
        "preemptions_recompute": rows.column("preemptions_recompute"),
        "preemptions_swap": rows.column("preemptions_swap"),
        "recomputed_tokens": rows.column("recomputed_tokens"),
    }


def timeline_table(record: Record) -> Columns:
    """Return the columns of ``timeline.parquet``: exact means over equal bins.

    The account as shares of the pool; queues in requests; what was counted per second, or in blocks a bin.
    """
    edges, width = record.edges, record.bin_width
    names = (*INTEGRALS, *EDGE_COUNTERS)

    def differences(name: str) -> list[int]:
        index = names.index(name)
        return [after[index] - before[index] for before, after in itertools.pairwise(edges)]

    def means(name: str) -> NDArray[np.float64]:
        return np.array([area / width for area in differences(name)], dtype=np.float64)

    def rates(name: str) -> NDArray[np.float64]:
        return np.array(differences(name), dtype=np.float64) * (TICKS_PER_SECOND / width)

    def counts(name: str) -> NDArray[np.int64]:
        return np.array(differences(name), dtype=np.int64)

    references = means("references")
    held = np.divide(means("blocks_held"), references, out=np.ones(len(references)), where=references > 0)
    bins = np.arange(len(edges) - 1, dtype=np.float64)
    live, useful, slots = means("live"), means("useful"), record.num_slots
    return {
        "t_s": bins * (width / TICKS_PER_SECOND),
        "width_s": np.full(len(bins), width / TICKS_PER_SECOND),
        "live": live / slots,
        "cached": means("cached") / slots,
        "reserved": (useful - live) / slots,
        "internal": means("internal") / slots,
        "external": means("external") / slots,
        "free": means("free") / slots,
        "running": means("running"),
        "waiting": means("waiting"),
        "swapped": means("swapped"),
        "sharing_saving": 1 - held,
        "throughput_requests_per_s": rates("finished"),
        "throughput_output_tokens_per_s": rates("output_tokens"),
        "preemptions_recompute": counts("preemptions_recompute"),
        "preemptions_swap": counts("preemptions_swap"),
        "copied_blocks": counts("copied_blocks"),
        "swapped_out_bytes": counts("swapped_out_blocks") * record.block_bytes,
        "swapped_in_bytes": counts("swapped_in_blocks") * record.block_bytes,
    }


def _peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
