"""The values of one row: lengths and times, exact, with errors that name the column."""

from __future__ import annotations

import datetime
import re
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

from pagesim.units import TICKS_PER_SECOND
from pagesim.workload.arrivals import MAX_TICKS
from pagesim.workload.lengths import MAX_TOKENS

_MICROSECONDS: Final = Decimal("0.000001")
_WHOLE: Final = re.compile(r"(-?[0-9]+)(?:\.0*)?")
_SECONDS: Final = re.compile(r"([0-9]{1,8})(?:\.([0-9]{1,6}))?")
_WALL_CLOCK: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[ T]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9])(?:\.([0-9]{1,12}))?"
    r"(?:Z|([+-])([01][0-9]|2[0-3]):?([0-5][0-9]))?"
)


class RowError(Exception):
    """A value is malformed: which column, what is wrong with it, and what is allowed."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(f"{column}: {message}")
        self.column = column


def length(column: str, raw: object) -> int:
    """Return a length in tokens, from 1. Raises RowError."""
    if isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 10:
        number = int(raw)
    else:
        number = _length_of(column, raw)
    if number < 1:
        raise RowError(column, f"is {number}, must be at least 1 token")
    return number


def _length_of(column: str, raw: object) -> int:
    """Return a whole number written in any way that is one."""
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        raise RowError(column, "is missing, must be a length in tokens from 1")
    match = None if isinstance(raw, bool) else _WHOLE.fullmatch(str(raw).strip())
    if match is None:
        raise RowError(column, f"is {brief(raw)}, must be a whole number of tokens from 1")
    digits = match.group(1)
    if len(digits) > 12 or int(digits) > MAX_TOKENS:
        raise RowError(column, f"is {brief(raw)}, must be at most {MAX_TOKENS} tokens")
    return int(digits)


def seconds(column: str, raw: object) -> int:
    """Return seconds since the start as ticks, to the microsecond. Raises RowError.

    Published seconds are floats: rounding gives back the microseconds that they were made of.
    """
    match = _SECONDS.fullmatch(raw) if isinstance(raw, str) else None
    if match is not None:
        whole, fraction = match.groups()
        return int(whole) * TICKS_PER_SECOND + int((fraction or "").ljust(12, "0"))
    number = _decimal(column, raw, "seconds from 0")
    return _in_range(column, raw, int(number.quantize(_MICROSECONDS, ROUND_HALF_EVEN) * TICKS_PER_SECOND))


def milliseconds(column: str, raw: object) -> int:
    """Return milliseconds since the start as ticks. Raises RowError."""
    if type(raw) is int and 0 <= raw < MAX_TICKS // 10**9:
        return raw * 10**9
    number = _decimal(column, raw, "milliseconds from 0")
    return _in_range(column, raw, int((number * 10**9).to_integral_value(ROUND_HALF_EVEN)))


def wall_clock(column: str, raw: object) -> int:
    """Return a date and time, with or without an offset from UTC, as ticks since the year 1. Raises RowError.

    Every digit of the fraction counts: the ticks are exact.
    """
    match = _WALL_CLOCK.fullmatch(str(raw).strip())
    day = None if match is None else _day(match.group(1))
    if match is None or day is None:
        if raw is None or not str(raw).strip():
            raise RowError(column, "is missing, must be a date and time such as 2023-11-16 18:15:46.6805900")
        raise RowError(column, f"is {brief(raw)}, must be a date and time such as 2023-11-16 18:15:46.6805900")
    _, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    whole = ((day * 24 + int(hour)) * 60 + int(minute)) * 60 + int(second)
    if sign is not None:
        offset = (int(offset_hours) * 60 + int(offset_minutes)) * 60
        whole -= offset if sign == "+" else -offset
    return whole * TICKS_PER_SECOND + int((fraction or "").ljust(12, "0"))


def brief(raw: object, width: int = 40) -> str:
    """Return a value short enough for a sentence."""
    text = repr(raw) if isinstance(raw, str) else str(raw)
    return text if len(text) <= width else text[: width - 3] + "..."


@lru_cache(maxsize=1024)
def _day(text: str) -> int | None:
    """Return the number of a date, or None if there is no such date."""
    try:
        return datetime.date.fromisoformat(text).toordinal()
    except ValueError:
        return None


def _decimal(column: str, raw: object, what: str) -> Decimal:
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        raise RowError(column, f"is missing, must be {what}")
    try:
        number = None if isinstance(raw, bool) else Decimal(str(raw).strip())
    except InvalidOperation:
        number = None
    if number is None or not number.is_finite():
        raise RowError(column, f"is {brief(raw)}, must be {what}")
    if number < 0:
        raise RowError(column, f"is {brief(raw)}, must be {what}; times are not negative")
    if number > MAX_TICKS:
        return Decimal(MAX_TICKS)
    return number


def _in_range(column: str, raw: object, ticks: int) -> int:
    if ticks > MAX_TICKS:
        raise RowError(
            column, f"is {brief(raw)}, must be within 106 days of the start, the longest that can be simulated"
        )
    return ticks
