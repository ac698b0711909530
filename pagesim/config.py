"""The experiment file, as frozen pydantic models. Reading YAML with positions: ``pagesim.experiment_file``.

Quantities are normalised while validating: memory to bytes, durations to ticks (``pagesim.units``).
What must hold between the keys of one part is checked by that part, what must hold between parts by
the whole; either way every problem is raised with the path of the key to point at.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from pagesim.config_types import (
    MAX_COUNT,
    AllocatorName,
    ArrivalsName,
    Bytes,
    Count,
    KvCache,
    LengthsName,
    NameOrMapping,
    Number,
    Path,
    ProblemsError,
    SchedulerName,
    Seed,
    Ticks,
    VictimName,
)
from pagesim.errors import PluginError
from pagesim.plugins import check_name
from pagesim.suggestions import nearest

Found = list[tuple[Path, str]]
Preemption = Literal["auto", "recompute", "swap", "by_sequences"]

CHUNKLESS: Final = ("mixed", "prefill_first", "static")
"""Schedulers that prefill a prompt in one piece."""


class Part(BaseModel):
    """Base of all parts: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Return what is wrong between the keys, each with the path of the key to point at.

        Args:
            invalid: keys whose values are replacements for wrong ones, so that nothing follows from them.
        """
        return []

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        if found := self.problems((info.context or {}).get(type(self).__name__, ())):
            raise ProblemsError(found)
        return self


class MemoryConfig(Part):
    """How much memory the KV cache has."""

    kv_cache: KvCache = Field(
        default="auto",
        description="Device memory for the KV cache: a size such as `12 GiB` (a bare number is bytes), or `auto`: "
        "device memory x fraction - weights - activations of the largest batch.",
    )
    fraction: Number = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of the device's memory that `kv_cache: auto` may use in all (0 to 1).",
    )
    host_kv_cache: Bytes = Field(
        default=0, description="Host memory for swapped-out blocks, such as `4 GiB`; a bare number is bytes; 0 is none."
    )
    watermark: Number = Field(
        default=0.01, ge=0, lt=1, description="Share of the blocks that an admission leaves free (0 to 1)."
    )
    dtype: Literal["float16", "bfloat16", "float32"] = Field(default="float16", description="Type of keys and values.")


class ArrivalsConfig(Part):
    """When requests arrive."""

    process: ArrivalsName = Field(
        default="poisson", description="poisson, gamma, constant, closed_loop, trace, or `module:Class`."
    )
    rate: Number | None = Field(default=None, gt=0, le=1e9, description="Mean arrival rate in requests per second.")
    cv: Number | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="Coefficient of variation of the gaps (gamma): 1 is as bursty as poisson.",
    )
    num_clients: Count | None = Field(
        default=None, description="Clients of a closed loop: each sends its next request when its last has ended."
    )
    think_time: Ticks | None = Field(
        default=None, description="Pause of a client between two requests; a bare number is seconds."
    )
    options: dict[str, Any] = Field(default={}, description="Further keyword arguments of a `module:Class`.")

    KEYS: ClassVar[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
        "poisson": (("rate",), ()),
        "gamma": (("rate", "cv"), ()),
        "constant": (("rate",), ()),
        "closed_loop": (("num_clients",), ("think_time",)),
        "trace": ((), ()),
    }

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Every process needs its own keys and takes no others."""
        if self.process not in self.KEYS:
            return []
        return _keys(
            self, f"arrivals by {self.process}", *self.KEYS[self.process], ("rate", "cv", "num_clients", "think_time")
        )


class DistributionConfig(Part):
    """One length distribution, in tokens."""

    distribution: LengthsName = Field(
        description="lognormal, gamma, uniform, constant, quantiles, or `module:Class`.",
    )
    mean: Number | None = Field(default=None, gt=0, le=MAX_COUNT, description="Mean in tokens (lognormal, gamma).")
    cv: Number | None = Field(
        default=None, ge=0, le=1000, description="Standard deviation / mean (lognormal, gamma); 0 is no variation."
    )
    low: Count | None = Field(default=None, description="Smallest length in tokens: of uniform, else a bound.")
    high: Count | None = Field(default=None, description="Largest length in tokens: of uniform, else a bound.")
    value: Count | None = Field(default=None, description="The length in tokens (constant).")
    options: dict[str, Any] = Field(
        default={}, description="Further keyword arguments of the distribution's class, such as the table of quantiles."
    )

    KEYS: ClassVar[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
        "lognormal": (("mean", "cv"), ("low", "high")),
        "gamma": (("mean", "cv"), ("low", "high")),
        "uniform": (("low", "high"), ()),
        "constant": (("value",), ()),
        "quantiles": ((), ("low", "high")),
    }

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Every distribution needs its own keys and takes no others."""
        found: Found = []
        if self.distribution in self.KEYS:
            required, optional = self.KEYS[self.distribution]
            found += _keys(
                self, f"a {self.distribution} distribution", required, optional, ("mean", "cv", "low", "high", "value")
            )
        if self.low is not None and self.high is not None and self.low > self.high:
            found.append((("high",), f"must be at least low ({self.low}), is {self.high}"))
        return found


class LengthsConfig(Part):
    """How long prompts and outputs are: a named data set, or a distribution each."""

    dataset: str | None = Field(
        default=None, min_length=1, description="A named pair of distributions (`pagesim list lengths`)."
    )
    prompt: DistributionConfig | None = Field(default=None, description="Distribution of the prompts' lengths.")
    output: DistributionConfig | None = Field(default=None, description="Distribution of the outputs' lengths.")

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Either a data set, or both distributions."""
        given = [key for key in ("prompt", "output") if getattr(self, key) is not None]
        if self.dataset is not None:
            return [((key,), "a dataset gives the lengths already; remove one of the two") for key in given]
        if not given:
            return [((), "needs either dataset, or prompt and output")]
        if len(given) == 1:
            missing = "output" if given == ["prompt"] else "prompt"
            return [((), f"{missing} is required beside {given[0]}")]
        return []


class SamplingConfig(Part):
    """How many sequences a request has: parallel samples or beams."""

    n: Count = Field(default=1, description="Parallel samples of each request.")
    lengths: Literal["shared", "independent"] = Field(
        default="shared", description="Whether the samples of a request share one output length."
    )
    beam_width: Count | None = Field(default=None, description="Beams of each request; excludes n.")
    divergence: Number = Field(
        default=25.0,
        ge=0,
        description="After output token t one beam is replaced by a copy of another with probability "
        "min(1, divergence / (t + 1)).",
    )

    @property
    def num_sequences(self) -> int:
        """Sequences of each request."""
        return self.n if self.beam_width is None else self.beam_width

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Samples and beams exclude each other."""
        if self.beam_width is None:
            if self.divergence != 25.0:
                return [(("divergence",), "concerns beams; give beam_width as well")]
            return []
        found: Found = []
        if self.n > 1:
            found.append((("n",), f"must be 1 with beam_width, is {self.n}: a request has samples or beams, not both"))
        if self.lengths == "independent":
            found.append((("lengths",), "must be shared with beam_width: all beams run to the request's output length"))
        return found


class PrefixConfig(Part):
    """System prompts that groups of requests share."""

    num_groups: int = Field(default=0, ge=0, le=MAX_COUNT, description="How many different prefixes there are.")
    tokens: int = Field(default=0, ge=0, le=MAX_COUNT, description="Length of a prefix in tokens, added to the prompt.")
    pin: bool = Field(default=False, description="Whether prefixes stay in memory for the whole run.")

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Both numbers, or neither."""
        if (self.num_groups > 0) != (self.tokens > 0):
            missing, other = ("num_groups", "tokens") if self.tokens else ("tokens", "num_groups")
            return [((missing,), f"must be at least 1 with {other}: a prefix needs both")]
        if self.pin and not self.tokens:
            return [(("pin",), "there is no prefix to pin; give num_groups and tokens")]
        return []


class EstimateConfig(Part):
    """How well policies know the output length."""

    cv: Number = Field(
        default=0.0, ge=0, le=1000, description="Standard deviation / mean of the estimate's error; 0 is exactly."
    )


class TraceConfig(Part):
    """A trace of requests: looked up beside the YAML, then in $PAGESIM_TRACES, then in the download cache."""

    path: str = Field(min_length=1, description="File name; .gz and .zst are read too.")
    format: Literal["azure", "mooncake", "vidur", "burstgpt", "lengths"] = Field(
        description="How the file is laid out."
    )
    limit: Count | None = Field(default=None, description="Read only the first so many requests.")
    rate_scale: Number = Field(
        default=1.0, gt=0, le=1e9, description="Arrivals come so many times as fast as in the trace."
    )
    prompt_column: str | None = Field(default=None, min_length=1, description="Column of prompt lengths (lengths).")
    output_column: str | None = Field(default=None, min_length=1, description="Column of output lengths (lengths).")
    on_bad_row: Literal["stop", "skip"] = Field(
        default="stop", description="Stop at a malformed row, or skip, count and report it."
    )

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Columns are named for the format that has no names of its own."""
        columns = ("prompt_column", "output_column")
        required = columns if self.format == "lengths" else ()
        return _keys(self, f"a trace of format {self.format}", required, (), columns)


class WorkloadConfig(Part):
    """Which requests arrive, when, and how long they are."""

    num_requests: Count | None = Field(
        default=None, description="How many requests arrive; a trace has its own number."
    )
    arrivals: ArrivalsConfig | None = Field(default=None, description="When they arrive; a trace may say so itself.")
    lengths: LengthsConfig | None = Field(default=None, description="How long they are; excludes trace.")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="Sequences of each request.")
    prefix: PrefixConfig = Field(default=PrefixConfig(), description="System prompts that requests share.")
    estimate: EstimateConfig = Field(default=EstimateConfig(), description="What policies know of output lengths.")
    trace: TraceConfig | None = Field(default=None, description="A recorded workload; excludes lengths.")

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Generated or read from a trace: each needs its own keys."""
        if self.trace is None:
            return self._generated()
        found: Found = []
        if self.lengths is not None:
            found.append((("lengths",), "a trace gives the lengths already; remove one of the two"))
        if self.num_requests is not None:
            found.append((("num_requests",), "a trace has its own number of requests; use trace.limit to take fewer"))
        is_timed = self.arrivals is None or self.arrivals.process == "trace"
        if is_timed and self.trace.format == "lengths":
            path: Path = ("arrivals", "process") if self.arrivals else ("trace", "format")
            found.append((path, "a trace of format lengths has no arrival times; give arrivals, such as poisson"))
        if not is_timed and self.trace.rate_scale != 1.0:
            found.append((("trace", "rate_scale"), "has no effect where arrivals do not come from the trace"))
        return found

    def _generated(self) -> Found:
        found: Found = []
        if self.num_requests is None:
            found.append((("num_requests",), "is required unless there is a trace"))
        if self.arrivals is None:
            found.append((("arrivals",), "is required unless there is a trace"))
        elif self.arrivals.process == "trace":
            found.append((("arrivals", "process"), "is trace, but there is no workload.trace"))
        if self.lengths is None:
            found.append((("lengths",), "is required unless there is a trace"))
        return found


class SchedulerConfig(Part):
    """Who runs in the next iteration, and within which limits."""

    policy: SchedulerName = Field(
        default="chunked", description="chunked, prefill_first, mixed, static, or `module:Class`."
    )
    max_num_seqs: Count = Field(default=256, description="Sequences that may run at once.")
    max_num_batched_tokens: Count = Field(default=2048, description="Tokens that one iteration may compute.")
    max_model_len: int = Field(
        default=2048, ge=2, le=MAX_COUNT, description="Longest sequence, prompt and output, in tokens."
    )
    too_long: Literal["refuse", "truncate"] = Field(
        default="refuse", description="What happens to a request longer than max_model_len."
    )
    preemption: Preemption = Field(default="auto", description="How a running request gives its memory up.")
    victim: VictimName = Field(
        default="youngest",
        description="Which request is preempted: youngest, least_computed, fewest_outputs, longest_remaining, "
        "or `module:Class`.",
    )
    admission: Literal["after_swapped", "after_preempted"] = Field(
        default="after_swapped",
        description="New requests wait until nothing is swapped out, or until all preempted ones have ended.",
    )

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """Limits that no request could meet."""
        found: Found = []
        tokens = self.max_num_batched_tokens
        if tokens < self.max_num_seqs:
            found.append(
                (("max_num_batched_tokens",), f"must be at least max_num_seqs ({self.max_num_seqs}), is {tokens}")
            )
        if self.policy in CHUNKLESS and tokens < self.max_model_len:
            found.append(
                (
                    ("max_num_batched_tokens",),
                    f"must be at least max_model_len ({self.max_model_len}) with policy {self.policy}, "
                    f"which does not cut prompts into chunks; is {tokens}",
                )
            )
        return found


class AllocatorConfig(Part):
    """One row: a policy and its pool. Other keys are keyword arguments of the policy's class."""

    model_config = ConfigDict(extra="allow")

    policy: AllocatorName = Field(
        description="contiguous, paged, copy_on_write, swapping, `module:Class`, or `file.py:Class` beside this file."
    )
    block_size: Count | None = Field(default=None, description="Slots (tokens) of a block; 16, or 1 for contiguous.")
    watermark: Number | None = Field(
        default=None, ge=0, lt=1, description="Share of the blocks that an admission leaves free; memory.watermark."
    )
    preemption: Preemption | None = Field(default=None, description="For this row; scheduler.preemption.")
    victim: VictimName | None = Field(default=None, description="For this row; scheduler.victim.")

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the policy's class."""
        return dict(self.model_extra or {})


class SloConfig(Part):
    """Service-level objectives: what goodput counts."""

    ttft: Ticks | None = Field(default=None, description="Time to first token; a bare number is seconds.")
    tpot: Ticks | None = Field(default=None, description="Mean time per output token; a bare number is seconds.")

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """An objective of no time at all cannot be met."""
        return [((key,), "must be above 0") for key in ("ttft", "tpot") if getattr(self, key) == 0]


class MeasureConfig(Part):
    """Over which part of a run figures are taken."""

    window: Literal["steady", "all"] = Field(
        default="steady", description="From a tenth of the requests to the last arrival, or everything."
    )
    timeline_bins: int = Field(default=1000, ge=10, le=100_000, description="Bins of the timeline, at most.")
    steps: bool = Field(default=False, description="Whether every step is kept, in runs/<run>/steps.parquet.")
    memory_view: bool | None = Field(
        default=None,
        description="Whether snapshots of the pool are kept for the page; by default for the first seed, "
        "of pools of up to 32,768 slots in runs of up to 10,000 requests.",
    )


RowName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]


class ExperimentConfig(Part):
    """One experiment: allocators as rows, crossed with sweep points and seeds."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="Names the folder of results."
    )
    question: str = Field(default="", description="What the experiment is to answer; stands above the table.")
    model: NameOrMapping = Field(
        description="A name from `pagesim list models`, the path of a Hugging Face config.json, or its values inline."
    )
    device: NameOrMapping = Field(
        description="A name from `pagesim list devices`, a calibrated profile's path, or its values inline."
    )
    backend: NameOrMapping = Field(
        default="cost_model",
        description="cost_model, reference, cuda, `module:Class`, or a mapping with `name` and its options.",
    )
    memory: MemoryConfig = Field(default=MemoryConfig(), description="How much memory the KV cache has.")
    tensor_parallel: int = Field(default=1, ge=1, le=4096, description="Devices that share each layer.")
    horizon: Ticks | None = Field(
        default=None, description="Simulated time at which a run is cut off; a bare number is seconds."
    )
    workload: WorkloadConfig = Field(description="Which requests arrive, when, and how long they are.")
    scheduler: SchedulerConfig = Field(default=SchedulerConfig(), description="Who runs in the next iteration.")
    allocators: dict[RowName, AllocatorConfig] = Field(min_length=1, description="The rows that are compared.")
    baseline: str | None = Field(default=None, description="The row that ratios refer to; the first by default.")
    sweep: dict[str, list[Any]] = Field(
        default={},
        description="Dotted keys with the values they take, crossed: `workload.arrivals.rate: [1, 2]`; "
        "`allocators.*.block_size` reaches every row.",
    )
    seeds: list[Seed] = Field(default=[0], min_length=1, max_length=10_000, description="One run each, from 0.")
    slo: SloConfig = Field(default=SloConfig(), description="Service-level objectives: what goodput counts.")
    measure: MeasureConfig = Field(default=MeasureConfig(), description="Over which part figures are taken.")
    ideal: bool = Field(default=True, description="Whether the bound that no policy can beat is added as a row.")

    @property
    def backend_name(self) -> str:
        """The backend's name; empty if the mapping has none."""
        return self.backend if isinstance(self.backend, str) else str(self.backend.get("name", ""))

    @property
    def backend_options(self) -> dict[str, Any]:
        """The keyword arguments of the backend's class that the experiment gives."""
        return {} if isinstance(self.backend, str) else {k: v for k, v in self.backend.items() if k != "name"}

    def problems(self, invalid: Collection[str] = ()) -> Found:
        """What must hold between parts; checks that need one of the ``invalid`` parts are left out."""
        checks = (
            (self._rows, {"allocators", "baseline", "ideal"}),
            (self._sizes, {"workload", "scheduler"}),
            (self._preemptions, {"memory", "scheduler", "allocators"}),
            (self._seeds, {"seeds"}),
            (self._horizon, {"horizon"}),
            (self._backend, {"backend"}),
        )
        return [problem for check, parts in checks if parts.isdisjoint(invalid) for problem in check()]

    def _rows(self) -> Found:
        found: Found = []
        if self.ideal and "ideal" in self.allocators:
            found.append(
                (("allocators", "ideal"), "is the name of the added bound; rename the row or set ideal: false")
            )
        folded: dict[str, str] = {}
        for name in self.allocators:
            other = folded.setdefault(name.lower(), name)
            if other != name:
                found.append((("allocators", name), f"differs from {other} in case only; rename one of the two"))
        rows = [*self.allocators, *(["ideal"] if self.ideal else [])]
        if self.baseline is not None and self.baseline not in rows:
            hint = nearest(self.baseline, rows)
            found.append((("baseline",), f"no row is called {self.baseline!r}{hint}; rows: {', '.join(rows)}"))
        return found

    def _sizes(self) -> Found:
        found: Found = []
        sampling, seats = self.workload.sampling, self.scheduler.max_num_seqs
        if sampling.num_sequences > seats:
            key = "n" if sampling.beam_width is None else "beam_width"
            found.append(
                (
                    ("workload", "sampling", key),
                    f"must not exceed scheduler.max_num_seqs ({seats}), is {sampling.num_sequences}: "
                    "no request could ever run",
                )
            )
        longest = self.scheduler.max_model_len
        if self.workload.prefix.tokens >= longest:
            found.append(
                (
                    ("workload", "prefix", "tokens"),
                    f"must be below scheduler.max_model_len ({longest}), is {self.workload.prefix.tokens}",
                )
            )
        return found

    def _preemptions(self) -> Found:
        if self.memory.host_kv_cache > 0:
            return []
        message = "swap needs host memory; set memory.host_kv_cache, such as 4 GiB"
        found: Found = []
        if self.scheduler.preemption == "swap":
            found.append((("scheduler", "preemption"), message))
        for name, row in self.allocators.items():
            if row.preemption == "swap":
                found.append((("allocators", name, "preemption"), message))
        return found

    def _seeds(self) -> Found:
        first = {seed: index for index, seed in reversed(list(enumerate(self.seeds)))}
        return [
            (("seeds", index), f"seed {seed} is listed twice")
            for index, seed in enumerate(self.seeds)
            if first[seed] != index
        ]

    def _horizon(self) -> Found:
        return [(("horizon",), "must be above 0; leave it out to run to the end")] if self.horizon == 0 else []

    def _backend(self) -> Found:
        if not self.backend_name:
            return [(("backend",), "a mapping needs the key name, such as name: cost_model")]
        try:
            check_name("backend", self.backend_name)
        except PluginError as error:
            return [(("backend",) if isinstance(self.backend, str) else ("backend", "name"), str(error))]
        return []


def _keys(
    part: Part, what: str, required: tuple[str, ...], optional: tuple[str, ...], all_keys: tuple[str, ...]
) -> Found:
    """Return which of ``all_keys`` are missing, and which are given though ``what`` takes none of them."""
    found: Found = [((key,), f"is required for {what}") for key in required if getattr(part, key) is None]
    takes = ", ".join([*required, *optional]) or "none of these keys"
    for key in all_keys:
        if key not in required and key not in optional and getattr(part, key) is not None:
            found.append(((key,), f"does not belong to {what}, which takes {takes}"))
    return found
