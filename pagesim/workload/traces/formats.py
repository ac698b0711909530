"""The published formats: which columns they have, and how their times are written."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from pagesim.workload.traces import values


@dataclass(frozen=True, slots=True)
class Format:
    """One layout of traces.

    Attributes:
        name: in the experiment file.
        prompt, output: columns (or JSON keys) of the lengths.
        time: column of the arrival times; None if it has none.
        parse_time: (column, raw value) -> ticks. Raises RowError.
        is_time_optional: whether files without the column are read too.
        is_wall_clock: whether times are dates, which count from the first row.
        is_json: JSON lines, otherwise CSV with a header.
    """

    name: str
    prompt: str
    output: str
    time: str | None = None
    parse_time: Callable[[str, object], int] = values.seconds
    is_time_optional: bool = False
    is_wall_clock: bool = False
    is_json: bool = False

    def matches(self, columns: Collection[str], is_json: bool) -> bool:
        """Return whether a file with these columns looks like this format."""
        has_time = self.time is None or self.is_time_optional or self.time in columns
        return self.is_json == is_json and self.prompt in columns and self.output in columns and has_time


FORMATS: Final[dict[str, Format]] = {
    known.name: known
    for known in (
        Format("azure", "ContextTokens", "GeneratedTokens", "TIMESTAMP", values.wall_clock, is_wall_clock=True),
        Format("mooncake", "input_length", "output_length", "timestamp", values.milliseconds, is_json=True),
        Format("vidur", "num_prefill_tokens", "num_decode_tokens", "arrived_at", is_time_optional=True),
        Format("burstgpt", "Request tokens", "Response tokens", "Timestamp"),
    )
}
"""Formats whose columns have fixed names."""


def lengths_format(prompt: str, output: str) -> Format:
    """Return the format of a CSV file that has lengths only, in these columns."""
    return Format("lengths", prompt, output)


def guess(columns: Collection[str], is_json: bool) -> str:
    """Return a half sentence that names the format of a file with these columns, or nothing."""
    if is_json and "hash_id_scope" in columns:
        return "; it looks like agentic conversations, which this version does not read"
    found = next((known.name for known in FORMATS.values() if known.matches(columns, is_json)), None)
    return f"; it looks like format: {found}" if found else ""
