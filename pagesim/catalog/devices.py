"""Devices: named ones, or written inline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from pagesim.catalog import data
from pagesim.errors import ConfigError
from pagesim.units import parse_bytes

_REQUIRED: Final = ("memory", "bandwidth", "flops_fp16", "host_link")
_FLOPS_UNITS: Final = {"": 1, "FLOP/S": 1, "GFLOP/S": 10**9, "TFLOP/S": 10**12, "PFLOP/S": 10**15}
_NUMBER_AND_UNIT: Final = re.compile(r"\s*([0-9][0-9_.eE+]*)\s*([A-Za-z/]*)\s*")


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What the simulator needs to know of an accelerator, by its data sheet.

    Attributes:
        name: for people.
        memory_bytes: device memory.
        bandwidth_bytes_per_s: of device memory.
        flops_fp16_per_s: dense half-precision rate with float32 accumulation.
        host_link_bytes_per_s: between host and device, each way.
        source: where the numbers come from.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: int
    flops_fp16_per_s: int
    host_link_bytes_per_s: int
    source: str


def device(spec: str | Mapping[str, Any], base_dir: Path | None = None) -> DeviceSpec:
    """Return a device.

    Args:
        spec: a name of the catalog; a mapping such as ``{memory: 40 GiB, bandwidth: 1555 GB/s, flops_fp16:
            312 TFLOP/s, host_link: 32 GB/s}`` (bare numbers are bytes, bytes/s and flop/s); or the path of
            a YAML file that holds one.
        base_dir: what a relative path starts from; the current folder by default.

    Raises ConfigError for an unknown name (with the nearest), a missing file, and values that make no device.
    """
    if isinstance(spec, Mapping):
        return _from_mapping(spec, "device", "inline")
    if spec.endswith((".yaml", ".yml")):
        path = (base_dir or Path()) / Path(spec).expanduser()
        return _from_mapping(_read(path), str(spec), path.stem)
    return _from_mapping(data.entry("devices", "device", spec), f"device {spec}", spec)


def devices() -> list[DeviceSpec]:
    """Return all devices of the catalog."""
    return [device(name) for name in data.load("devices")]


def _from_mapping(values: Mapping[str, Any], what: str, name: str) -> DeviceSpec:
    data.check_keys(what, values, _REQUIRED, ("name", "source"))
    return DeviceSpec(
        name=data.text(what, "name", values.get("name", name)),
        memory_bytes=_bytes(what, "memory", values["memory"]),
        bandwidth_bytes_per_s=_bytes(what, "bandwidth", values["bandwidth"], is_rate=True),
        flops_fp16_per_s=_flops(what, "flops_fp16", values["flops_fp16"]),
        host_link_bytes_per_s=_bytes(what, "host_link", values["host_link"], is_rate=True),
        source=data.text(what, "source", values.get("source", "given inline")),
    )


def _bytes(what: str, key: str, value: Any, *, is_rate: bool = False) -> int:
    try:
        amount = parse_bytes(value.strip().removesuffix("/s") if is_rate and isinstance(value, str) else value)
    except (ValueError, ArithmeticError):
        amount = 0
    if amount < 1:
        example = "1555 GB/s" if is_rate else "40 GiB"
        raise ConfigError(f"{what}: {key}: must be such as {example}, and above 0; is {value!r}")
    return amount


def _flops(what: str, key: str, value: Any) -> int:
    match = None if isinstance(value, bool) else _NUMBER_AND_UNIT.fullmatch(str(value))
    scale = None if match is None else _FLOPS_UNITS.get(match.group(2).upper().replace("FLOPS", "FLOP/S"))
    try:
        amount = 0 if match is None or scale is None else int(Decimal(match.group(1)) * scale)
    except (InvalidOperation, OverflowError):
        amount = 0
    if amount < 1:
        raise ConfigError(f"{what}: {key}: must be such as 312 TFLOP/s, and above 0; is {value!r}")
    return amount


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"device: there is no file {path}; give a YAML file or a catalog name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"device: {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise ConfigError(f"{where}: is no YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"device: {path} holds no mapping with {', '.join(_REQUIRED)}")
    return content
