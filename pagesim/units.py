"""Quantities with units, parsed to integers: bytes for memory, ticks (picoseconds) for time.

Time is an integer, so that two ways of reaching the same instant agree exactly; an int64 of
picoseconds lasts 106 days.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation, Overflow
from typing import Final

TICKS_PER_SECOND: Final = 10**12

BYTE_UNITS: Final[dict[str, int]] = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
TIME_UNITS: Final[dict[str, int]] = {
    "ps": 1,
    "ns": 10**3,
    "us": 10**6,
    "ms": 10**9,
    "s": 10**12,
    "min": 60 * 10**12,
    "h": 3600 * 10**12,
}

_QUANTITY = re.compile(r"\s*([-+]?[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(value: str | float) -> int:
    """Return a memory size in bytes; a bare number is bytes.

    Raises ValueError on an unknown unit, a negative size or a fraction of a byte.
    """
    return _parse(value, BYTE_UNITS, default="B", what="memory size")


def parse_time(value: str | float) -> int:
    """Return a duration in ticks; a bare number is seconds.

    Raises ValueError on an unknown unit, a negative duration or a fraction of a tick.
    """
    return _parse(value, TIME_UNITS, default="s", what="duration")


def ticks(seconds: float) -> int:
    """Return seconds as ticks, rounded to the nearest."""
    return round(seconds * TICKS_PER_SECOND)


def seconds(num_ticks: int) -> float:
    """Return ticks as seconds."""
    return num_ticks / TICKS_PER_SECOND


def format_bytes(num_bytes: int) -> str:
    """Return a size for people, in binary units: ``12.0 GiB``."""
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_time(num_ticks: int) -> str:
    """Return a duration for people, in the largest unit that gives at least one: ``250 ms``."""
    for unit in ("h", "min", "s", "ms", "us", "ns"):
        if abs(num_ticks) >= TIME_UNITS[unit]:
            return f"{num_ticks / TIME_UNITS[unit]:.4g} {unit}"
    return f"{num_ticks} ps"


def _parse(value: str | float, units: dict[str, int], *, default: str, what: str) -> int:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is no {what}")
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is no {what}; write a number and one of {', '.join(units)}")
    number, unit = match.group(1), match.group(2) or default
    if unit not in units:
        raise ValueError(f"unknown unit {unit!r} in {value!r}; allowed: {', '.join(units)}")
    try:
        amount = Decimal(number.replace("_", "")) * units[unit]
    except (InvalidOperation, Overflow):
        raise ValueError(f"{value!r} is no {what}") from None
    if amount < 0:
        raise ValueError(f"{value!r} is negative; a {what} is at least 0")
    smallest = min(units, key=lambda name: units[name])
    if amount != amount.to_integral_value():
        raise ValueError(f"{value!r} is no whole number of {smallest}")
    return int(amount)
