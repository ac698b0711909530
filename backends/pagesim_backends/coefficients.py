"""What the cost model knows about a model, a device and an engine: every coefficient, with its unit and source.

Measured figures without another source are from one NVIDIA H200; "fitted" ones reproduce the OPT-13B
results of Kwon et al. 2023 (PagedAttention) on an A100.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pagesim.catalog import DeviceSpec, ModelSpec
from pagesim.errors import ConfigError
from pagesim.units import format_bytes, format_time, parse_bytes, parse_time

MICROSECOND: Final = 10**6
MILLISECOND: Final = 10**9

PAGED_FACTORS: Final = ((1, 1.24), (2, 1.12), (4, 1.06), (8, 1.03), (16, 1.015), (32, 1.008), (64, 1.004), (256, 1.001))
"""Block size, and time of decode attention over that of the same kernel on contiguous memory.

From 16 on within 2 % of contiguous and within 1.5 % of each other, as measured. Below 16 an estimate: one
dependent table look-up a block on the way to its loads, so the excess doubles as the block halves.
"""


@dataclass(frozen=True)
class Engine:
    """What an inference engine's own code costs, whatever the device.

    Attributes:
        attention_scale: its paged kernel's time over the one that ``PAGED_FACTORS`` describes.
        iteration: ticks of host work in every iteration.
        sequence: ticks of host work for each sequence in an iteration.
        pieces_per_layer: transfers that move one block of one layer over the host link; 0 if a block
            is contiguous over all layers and moves as one piece.
    """

    attention_scale: float
    iteration: int
    sequence: int
    pieces_per_layer: int


ENGINES: Final[dict[str, Engine]] = {
    # 32 layers launched one by one from Python cost 0.5 to 1 ms; the sequence's share is an estimate.
    "modern": Engine(1.0, iteration=MILLISECOND, sequence=10 * MICROSECOND, pieces_per_layer=0),
    # Kwon et al. 2023, Figure 18: 20 to 26 % slower than a contiguous kernel. Host times fitted. K and V
    # of each layer are pools of their own.
    "vllm-2023": Engine(1.23 / 1.015, iteration=6_800 * MICROSECOND, sequence=250 * MICROSECOND, pieces_per_layer=2),
}


@dataclass(frozen=True)
class Kind:
    """How a coefficient is written in an experiment file, checked and shown."""

    parse: Callable[[Any], float]
    show: Callable[[Any], str]
    low: float = 0.0
    high: float = math.inf


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return value


def _rate(value: Any) -> float:
    return parse_bytes(value.removesuffix("/s") if isinstance(value, str) else value)


def _show_rate(value: float) -> str:
    return f"{value / 1e12:.4g} TB/s" if value >= 1e12 else f"{value / 1e9:.4g} GB/s"


DURATION: Final = Kind(parse_time, format_time)
BYTES: Final = Kind(parse_bytes, lambda value: f"{format_bytes(round(value))} ({round(value):,} B)")
RATE: Final = Kind(_rate, _show_rate, low=1)
FLOPS: Final = Kind(_number, lambda value: f"{value / 1e12:.4g} Tflop/s", low=1)
WORK: Final = Kind(_number, lambda value: f"{value:.4g} flop")
SHARE: Final = Kind(_number, lambda value: f"{value:.3g}", low=1e-6, high=1)
PORTION: Final = Kind(_number, lambda value: f"{value:.3g}", high=1)
FACTOR: Final = Kind(_number, lambda value: f"{value:.4g}", low=1)
COUNT: Final = Kind(_number, lambda value: f"{value:g}")


def _coefficient(kind: Kind, meaning: str, *, given: bool = False) -> Any:
    """Declare a field of ``Coefficients``; ``given`` ones follow from the experiment and cannot be set apart."""
    return dataclasses.field(metadata={"kind": kind, "meaning": meaning, "given": given})


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """Everything that a price depends on, for one device of the tensor-parallel group; durations in ticks.

    Each field states its meaning once, for readers here and for ``rows``.
    """

    weight_bytes: float = _coefficient(BYTES, "weights that one device reads in an iteration")
    bandwidth: float = _coefficient(RATE, "memory bandwidth by the data sheet")
    bandwidth_share: float = _coefficient(SHARE, "reached of it by reads; fitted: 1.4 of 1.555 TB/s on an A100")
    flops: float = _coefficient(FLOPS, "dense half-precision rate by the data sheet")
    flops_share: float = _coefficient(SHARE, "reached of it; fitted: 0.167 ms a token of OPT-13B on an A100")
    flops_per_token: float = _coefficient(WORK, "2 x parameters a token (Kaplan et al. 2020), one device's share")
    attention_flops_per_pair: float = _coefficient(
        WORK, "4 x layers x heads x head size for a prompt token and a token it attends to, one device's share"
    )
    kv_bytes_per_token: float = _coefficient(BYTES, "keys and values of a token on one device", given=True)
    block_size: int = _coefficient(COUNT, "slots of a block", given=True)
    attention_factor: float = _coefficient(FACTOR, "time of attention over that on contiguous memory")
    table_entry: int = _coefficient(DURATION, "host time a block-table entry; NumPy from a list: 16 to 19 ns measured")
    iteration: int = _coefficient(DURATION, "host time an iteration")
    sequence: int = _coefficient(DURATION, "host time a sequence in an iteration")
    copy_share: float = _coefficient(SHARE, "bandwidth reached by block copies, read + write; 3.3 of 4.8 TB/s measured")
    copy_launch: int = _coefficient(DURATION, "launch of the kernel that makes a step's copies; 4.5 us measured")
    link_bandwidth: float = _coefficient(RATE, "host link, each way, by the data sheet")
    link_share: float = _coefficient(SHARE, "reached of it from pinned memory; 55.5 of 64 GB/s measured")
    transfer: int = _coefficient(DURATION, "fixed cost of a piece over the host link; 32 KiB at 10.9 GB/s measured")
    transfers_per_block: float = _coefficient(COUNT, "pieces that a block is moved in")
    swap_overlap: float = _coefficient(
        PORTION, "part of a step's other work that transfers hide behind: 0 is one after the other, 1 beside it"
    )
    tensor_parallel: int = _coefficient(COUNT, "devices that share each layer", given=True)
    all_reduces: float = _coefficient(COUNT, "all-reduces an iteration: 2 a layer (Shoeybi et al. 2019)")
    all_reduce_latency: int = _coefficient(DURATION, "fixed cost of one of them; an estimate")
    all_reduce_bytes_per_token: float = _coefficient(
        BYTES, "sent by a device for a token: 2 (t - 1) / t of each hidden state (ring; Patarasuk and Yuan 2009)"
    )
    all_reduce_bandwidth: float = _coefficient(
        RATE, "between devices, each way; NVLink 3 by its data sheet: without NVLink set the host link's"
    )

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (name, value with its unit, meaning and source) for each coefficient."""
        return [
            (field.name, field.metadata["kind"].show(getattr(self, field.name)), field.metadata["meaning"])
            for field in dataclasses.fields(self)
        ]


def attention_factor(block_size: int) -> float:
    """Return ``PAGED_FACTORS`` at ``block_size``, interpolated over its logarithm, constant beyond the ends."""
    previous_size, previous = PAGED_FACTORS[0]
    for size, factor in PAGED_FACTORS:
        if block_size == size:
            return factor
        if block_size < size:
            share = math.log2(block_size / previous_size) / math.log2(size / previous_size)
            return previous + share * (factor - previous)
        previous_size, previous = size, factor
    return previous


def coefficients(
    model: ModelSpec,
    device: DeviceSpec,
    *,
    tensor_parallel: int,
    dtype_bytes: int,
    block_size: int,
    contiguous: bool,
    **overrides: Any,
) -> Coefficients:
    """Derive every coefficient from a model, a device and an engine.

    Args:
        model: whose iterations are priced.
        device: each of the ``tensor_parallel`` devices.
        tensor_parallel: devices that share each layer.
        dtype_bytes: bytes of a weight and of an element of the KV cache.
        block_size: slots of a block.
        contiguous: whether tables are adjacent runs, read by a kernel that needs no table.
        **overrides: ``engine`` (a name in ``ENGINES``), or any coefficient that the experiment does
            not determine otherwise, as a number or with its unit (``iteration="2 ms"``).

    Raises ConfigError for an unknown name or a value out of range.
    """
    engine_name = overrides.pop("engine", "modern")
    if not isinstance(engine_name, str) or engine_name not in ENGINES:
        raise ConfigError(_unknown("engine", engine_name, ENGINES))
    engine = ENGINES[engine_name]
    layers, share = model.num_layers, 1 / tensor_parallel
    derived = Coefficients(
        weight_bytes=model.num_parameters * dtype_bytes * share,
        bandwidth=device.bandwidth_bytes_per_s,
        bandwidth_share=0.9,
        flops=device.flops_fp16_per_s,
        flops_share=0.5,
        flops_per_token=2 * model.num_parameters * share,
        attention_flops_per_pair=4 * layers * model.num_heads * model.head_dim * share,
        kv_bytes_per_token=model.kv_bytes_per_token(dtype_bytes, tensor_parallel),
        block_size=block_size,
        attention_factor=1.0 if contiguous else engine.attention_scale * attention_factor(block_size),
        table_entry=0 if contiguous else 20_000,
        iteration=engine.iteration,
        sequence=engine.sequence,
        copy_share=0.7,
        copy_launch=4_500_000,
        link_bandwidth=device.host_link_bytes_per_s,
        link_share=0.85,
        transfer=2_400_000,
        transfers_per_block=layers * engine.pieces_per_layer or 1,
        swap_overlap=0.0,
        tensor_parallel=tensor_parallel,
        all_reduces=2 * layers if tensor_parallel > 1 else 0,
        all_reduce_latency=10 * MICROSECOND,
        all_reduce_bytes_per_token=2 * layers * model.hidden_size * dtype_bytes * 2 * (1 - share),
        all_reduce_bandwidth=300e9,
    )
    return dataclasses.replace(derived, **_checked(overrides))


def _checked(overrides: dict[str, Any]) -> dict[str, Any]:
    """Return ``overrides`` as numbers. Raises ConfigError where a name or a value is not allowed."""
    fields = {field.name: field.metadata for field in dataclasses.fields(Coefficients)}
    settable = [name for name, about in fields.items() if not about["given"]]
    checked = {}
    for name, value in overrides.items():
        if name not in fields:
            raise ConfigError(_unknown("coefficient of cost_model", name, ["engine", *settable]))
        if fields[name]["given"]:
            raise ConfigError(f"cost_model: {name} follows from the rest of the experiment and cannot be set here")
        kind: Kind = fields[name]["kind"]
        try:
            number = kind.parse(value)
        except ValueError as error:
            raise ConfigError(f"cost_model: {name}: {error}") from None
        if not kind.low <= number <= kind.high:
            bounds = f"at least {kind.low:g}" + (f" and at most {kind.high:g}" if kind.high < math.inf else "")
            raise ConfigError(f"cost_model: {name}: {value!r} is out of range; allowed: {bounds}")
        checked[name] = number
    return checked


def _unknown(what: str, name: object, known: Any) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}; allowed: {', '.join(known)}{hint}"
