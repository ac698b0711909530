"""The experiment file, as frozen pydantic models. Reading YAML with positions: ``pagesim.experiment_file``.

Quantities are normalised while validating: memory to bytes, durations to ticks (``pagesim.units``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pagesim.units import parse_bytes, parse_time

Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Ticks = Annotated[int, BeforeValidator(parse_time)]


class Model(BaseModel):
    """Base of all parts: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MemoryConfig(Model):
    """How much memory the KV cache has."""

    kv_cache: Literal["auto"] | Bytes = "auto"
    fraction: float = Field(default=0.9, gt=0, le=1)
    host_kv_cache: Bytes = 0
    watermark: float = Field(default=0.01, ge=0, lt=1)
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"


class ArrivalsConfig(Model):
    """When requests arrive. ``rate`` is requests per second."""

    process: str = "poisson"  # poisson | gamma | constant | closed_loop | trace, or "module:Class"
    rate: float | None = Field(default=None, gt=0)
    cv: float | None = Field(default=None, gt=0)
    num_clients: int | None = Field(default=None, ge=1)
    think_time: Ticks | None = None


class DistributionConfig(Model):
    """One length distribution, in tokens."""

    distribution: str  # lognormal | gamma | uniform | constant | quantiles, or "module:Class"
    mean: float | None = Field(default=None, gt=0)
    cv: float | None = Field(default=None, ge=0)
    low: int | None = Field(default=None, ge=1)
    high: int | None = Field(default=None, ge=1)
    value: int | None = Field(default=None, ge=1)
    options: dict[str, Any] = {}


class LengthsConfig(Model):
    """How long prompts and outputs are: a named data set, or a distribution each."""

    dataset: str | None = None
    prompt: DistributionConfig | None = None
    output: DistributionConfig | None = None


class SamplingConfig(Model):
    """How many sequences a request has."""

    n: int = Field(default=1, ge=1)
    lengths: Literal["shared", "independent"] = "shared"
    beam_width: int | None = Field(default=None, ge=1)
    divergence: float = Field(default=25.0, ge=0)


class PrefixConfig(Model):
    """System prompts that groups of requests share."""

    num_groups: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    pin: bool = False


class EstimateConfig(Model):
    """How well policies know the output length: 0 is exactly."""

    cv: float = Field(default=0.0, ge=0)


class TraceConfig(Model):
    """A trace of requests: looked up beside the YAML, then in $PAGESIM_TRACES, then in the cache."""

    path: str
    format: Literal["azure", "mooncake", "vidur", "burstgpt", "lengths"]
    limit: int | None = Field(default=None, ge=1)
    rate_scale: float = Field(default=1.0, gt=0)
    prompt_column: str | None = None
    output_column: str | None = None
    on_bad_row: Literal["stop", "skip"] = "stop"


class WorkloadConfig(Model):
    """Which requests arrive, when, and how long they are."""

    num_requests: int | None = Field(default=None, ge=1)
    arrivals: ArrivalsConfig | None = None
    lengths: LengthsConfig | None = None
    sampling: SamplingConfig = SamplingConfig()
    prefix: PrefixConfig = PrefixConfig()
    estimate: EstimateConfig = EstimateConfig()
    trace: TraceConfig | None = None


class SchedulerConfig(Model):
    """Who runs in the next iteration, and within which limits."""

    policy: str = "chunked"
    max_num_seqs: int = Field(default=256, ge=1)
    max_num_batched_tokens: int = Field(default=2048, ge=1)
    max_model_len: int = Field(default=2048, ge=2)
    too_long: Literal["refuse", "truncate"] = "refuse"
    preemption: Literal["auto", "recompute", "swap", "by_sequences"] = "auto"
    victim: str = "youngest"
    admission: Literal["after_swapped", "after_preempted"] = "after_swapped"


class AllocatorConfig(BaseModel):
    """One row: a policy and its pool. Other keys are keyword arguments of the policy's class."""

    model_config = ConfigDict(extra="allow", frozen=True)

    policy: str
    block_size: int | None = Field(default=None, ge=1)
    watermark: float | None = Field(default=None, ge=0, lt=1)
    preemption: Literal["auto", "recompute", "swap", "by_sequences"] | None = None
    victim: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the policy's class."""
        return dict(self.model_extra or {})


class SloConfig(Model):
    """Service-level objectives: what goodput counts."""

    ttft: Ticks | None = None
    tpot: Ticks | None = None


class MeasureConfig(Model):
    """Over which part of a run figures are taken."""

    window: Literal["steady", "all"] = "steady"
    timeline_bins: int = Field(default=1000, ge=10, le=100_000)


class ExperimentConfig(Model):
    """A whole experiment file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    question: str = ""
    model: str | dict[str, Any]
    device: str | dict[str, Any]
    backend: str | dict[str, Any] = "cost_model"
    memory: MemoryConfig = MemoryConfig()
    tensor_parallel: int = Field(default=1, ge=1)
    horizon: Ticks | None = None
    workload: WorkloadConfig
    scheduler: SchedulerConfig = SchedulerConfig()
    allocators: dict[str, AllocatorConfig]
    baseline: str | None = None
    sweep: dict[str, list[Any]] = {}
    seeds: list[int] = Field(default=[0], min_length=1)
    slo: SloConfig = SloConfig()
    measure: MeasureConfig = MeasureConfig()
    ideal: bool = True
