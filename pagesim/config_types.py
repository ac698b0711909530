"""The types of the experiment file's values: quantities with units, counts, names of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, PlainSerializer, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from pagesim import plugins
from pagesim.errors import PluginError
from pagesim.units import BYTE_UNITS, TIME_UNITS, parse_bytes, parse_time

MAX_BYTES: Final = 64 * 2**40
MAX_TICKS: Final = 2**63 - 1
MAX_COUNT: Final = 10**9

Path = tuple[str | int, ...]
"""Where a value stands in the experiment: ``("seeds", 0)``."""


class ProblemsError(ValueError):
    """What is wrong between several keys of one mapping, each with the path of the key to point at."""

    def __init__(self, problems: Sequence[tuple[Path, str]]) -> None:
        super().__init__("; ".join(f"{show(path)}: {message}" if path else message for path, message in problems))
        self.problems = list(problems)


def show(path: Path) -> str:
    """Return a path as people write it: ``workload.arrivals.rate``, ``seeds[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def write_bytes(num_bytes: int) -> str | int:
    """Return a memory size in the largest binary unit that gives it exactly, else the plain number."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if num_bytes and num_bytes % BYTE_UNITS[unit] == 0:
            return f"{num_bytes // BYTE_UNITS[unit]} {unit}"
    return num_bytes


def write_time(num_ticks: int) -> str:
    """Return a duration in the largest unit that gives it exactly: ``200 ms``, ``123456 ps``."""
    for unit in ("h", "min", "s", "ms", "us", "ns"):
        if num_ticks % TIME_UNITS[unit] == 0 and (num_ticks or unit == "s"):
            return f"{num_ticks // TIME_UNITS[unit]} {unit}"
    return f"{num_ticks} ps"


def _read_bytes(value: Any) -> int:
    num_bytes = _read(parse_bytes, value, "a memory size such as 12 GiB")
    if num_bytes > MAX_BYTES:
        raise ValueError(f"{value} is more than 64 TiB; no machine has that")
    return num_bytes


def _read_kv_cache(value: Any) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, str) and not any(character.isdigit() for character in value):
        raise ValueError(f"{value!r} is no memory size; write auto, or a size such as 12 GiB")
    num_bytes = _read_bytes(value)
    if num_bytes == 0:
        raise ValueError("a KV cache of 0 bytes holds nothing; write auto, or a size such as 12 GiB")
    return num_bytes


def _read_time(value: Any) -> int:
    num_ticks = _read(parse_time, value, "a duration such as 200 ms")
    if num_ticks > MAX_TICKS:
        raise ValueError(f"{value} is more than 106 days, the longest time that can be simulated")
    return num_ticks


def _read(parse: Any, value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be {what}, is {brief(value)}")
    try:
        return int(parse(value))
    except ArithmeticError:
        raise ValueError(f"must be {what}, is {brief(value)}") from None


def _refuse_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, is {brief(value)}")
    return value


def _name_or_mapping(value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, dict) and value:
        return value
    raise ValueError(f"must be a name, or a mapping with its values, is {brief(value)}")


def brief(value: Any) -> str:
    """Return a value as it looks in YAML, short enough for a sentence."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_BYTES_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "pattern": rf"^\s*[0-9][0-9_.eE+]*\s*({'|'.join(BYTE_UNITS)})?\s*$"},
            {"type": "number", "minimum": 0},
        ]
    }
)
_KV_CACHE_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"const": "auto"},
            {"type": "string", "pattern": rf"^\s*[0-9][0-9_.eE+]*\s*({'|'.join(BYTE_UNITS)})?\s*$"},
            {"type": "number", "exclusiveMinimum": 0},
        ]
    }
)
_TIME_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "pattern": rf"^\s*[0-9][0-9_.eE+-]*\s*({'|'.join(TIME_UNITS)})?\s*$"},
            {"type": "number", "minimum": 0},
        ]
    }
)


def _write_kv_cache(value: int | str) -> int | str:
    return value if isinstance(value, str) else write_bytes(value)


Bytes = Annotated[int, BeforeValidator(_read_bytes), PlainSerializer(write_bytes, when_used="json"), _BYTES_SCHEMA]
"""A memory size: bytes when validated; ``12 GiB`` or a plain number of bytes in the file."""

KvCache = Annotated[
    int | str,  # only "auto" of all strings
    BeforeValidator(_read_kv_cache),
    PlainSerializer(_write_kv_cache, when_used="json"),
    _KV_CACHE_SCHEMA,
]

Ticks = Annotated[int, BeforeValidator(_read_time), PlainSerializer(write_time, when_used="json"), _TIME_SCHEMA]
"""A duration: ticks when validated; ``200 ms`` or a plain number of seconds in the file."""

Number = Annotated[float, BeforeValidator(_refuse_bool), Field(allow_inf_nan=False)]
"""A finite number."""

Count = Annotated[int, BeforeValidator(_refuse_bool), Field(ge=1, le=MAX_COUNT)]
"""A whole number from 1."""

Seed = Annotated[int, BeforeValidator(_refuse_bool), Field(ge=0, le=2**63 - 1)]

NameOrMapping = Annotated[str | dict[str, Any], BeforeValidator(_name_or_mapping)]


@dataclass(frozen=True)
class PluginName:
    """Marks a text as the name of a policy: a known one, ``module:Class`` or ``file.py:Class``."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the name's form and that it is known; nothing is imported."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Let an editor complete the names that come with pagesim."""
        return {"anyOf": [{"enum": sorted(plugins.BUILTIN[self.kind])}, {"type": "string"}]}

    def check(self, name: str) -> str:
        """Return the name. Raises ValueError with the nearest known one."""
        try:
            plugins.check_name(self.kind, name)
        except PluginError as error:
            raise ValueError(str(error)) from None
        return name


AllocatorName = Annotated[str, PluginName("allocator")]
SchedulerName = Annotated[str, PluginName("scheduler")]
VictimName = Annotated[str, PluginName("victim")]
ArrivalsName = Annotated[str, PluginName("arrivals")]
LengthsName = Annotated[str, PluginName("lengths")]
