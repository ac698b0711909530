"""From a file to the requests it has recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagesim.config import TraceConfig
from pagesim.errors import TraceError
from pagesim.rows import Rows
from pagesim.workload.arrivals import MAX_TICKS
from pagesim.workload.traces.formats import FORMATS, Format, lengths_format
from pagesim.workload.traces.lookup import find_trace
from pagesim.workload.traces.records import Raw, records
from pagesim.workload.traces.values import RowError, brief, length

_UNSCALED: Final = Fraction(1)


@dataclass(frozen=True, eq=False)
class TraceRows:
    """Requests of a trace in the order of the file. They have been read once, and wait on the disk.

    Attributes:
        path: the file.
        rows: ticks as the file has them (0 without), prompt and output length, from 1.
        has_times: whether the file has arrival times.
        skipped_rows: malformed rows that were left out.
        rate_scale: by which times are divided.
    """

    path: Path
    rows: Rows
    has_times: bool
    skipped_rows: int
    rate_scale: Fraction = _UNSCALED

    def __len__(self) -> int:
        return len(self.rows)

    def lengths_of(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return prompt and output lengths of the requests from ``first`` up to ``last``."""
        rows = self.rows.read(first, last)
        return rows[:, 1], rows[:, 2]

    def arrivals_of(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the arrivals of the requests from ``first`` up to ``last``: ticks that do not decrease."""
        ticks: NDArray[np.int64] = self.rows.read(first, last)[:, 0]
        if self.rate_scale == _UNSCALED:
            return ticks
        return np.array([_scaled(tick, self.rate_scale) for tick in ticks.tolist()], dtype=np.int64)

    @property
    def arrivals(self) -> NDArray[np.int64] | None:
        """All arrivals at once; None if the file has no times."""
        return self.arrivals_of(0, len(self)) if self.has_times else None

    @property
    def prompt_tokens(self) -> NDArray[np.int64]:
        """All prompt lengths at once."""
        return self.lengths_of(0, len(self))[0]

    @property
    def output_tokens(self) -> NDArray[np.int64]:
        """All output lengths at once."""
        return self.lengths_of(0, len(self))[1]


def read_trace(config: TraceConfig, base_dir: Path) -> TraceRows:
    """Return the requests of a trace.

    Times are exact to what the file says (seconds as floats: to the microsecond), then divided by ``rate_scale``
    and rounded to a tick. Requests of equal times keep the order of the file.

    Raises TraceError where the file is not found, and for the first malformed row, with file, line and column,
    unless ``on_bad_row: skip`` leaves such rows out; a damaged file is an error in any case.
    """
    path = find_trace(config.path, base_dir).resolve()
    if config.format == "lengths":
        layout = lengths_format(config.prompt_column or "", config.output_column or "")
    else:
        layout = FORMATS[config.format]
    status = path.stat()
    rows = _read(path, layout, config.limit, config.on_bad_row == "skip", (status.st_mtime_ns, status.st_size))
    scale = Fraction(str(config.rate_scale))
    last = int(rows.rows.read(len(rows) - 1, len(rows))[0, 0])
    if _scaled(last, scale) > MAX_TICKS:
        raise TraceError(
            f"{path}: with rate_scale {config.rate_scale} its last request arrives later than in 106 days, the "
            "longest that can be simulated; raise rate_scale or set limit"
        )
    return replace(rows, rate_scale=scale)


# the runs of an experiment read the same trace one after the other
@lru_cache(maxsize=4)
def _read(path: Path, layout: Format, limit: int | None, skips: bool, stamp: tuple[int, int]) -> TraceRows:
    has_times, rows = records(path, layout)
    found = Rows(3)
    num_skipped = 0
    first_problem = ""
    for line, problem in _collect(rows, layout if has_times else None, layout, limit, found):
        text = f"{path}:{line}: {problem}"
        if not skips:
            raise TraceError(text)
        first_problem = first_problem or text
        num_skipped += 1
    if not len(found):
        if num_skipped:
            raise TraceError(
                f"{path}: none of its {num_skipped} rows is well-formed; the first problem: {first_problem}"
            )
        raise TraceError(f"{path}: has a header and no rows" if not layout.is_json else f"{path}: has no rows")
    return TraceRows(path, found, has_times, num_skipped)


def _collect(
    rows: Iterator[tuple[int, Raw | RowError]],
    timed: Format | None,
    layout: Format,
    limit: int | None,
    found: Rows,
) -> Iterator[tuple[int, RowError]]:
    """Append what rows hold, up to ``limit`` of them, and yield the malformed ones with their lines."""
    start: int | None = None if layout.is_wall_clock else 0
    tick = last = 0
    last_raw: object = None
    for line, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            raw_time, raw_prompt, raw_output = row
            prompt, output = length(layout.prompt, raw_prompt), length(layout.output, raw_output)
            if timed is not None:
                column = timed.time or ""
                tick = timed.parse_time(column, raw_time)
                if start is None:
                    start = tick
                tick -= start
                if tick < last:
                    raise RowError(
                        column, f"is {brief(raw_time)}, before {brief(last_raw)} above; times must not decrease"
                    )
                if tick > MAX_TICKS:
                    raise RowError(column, f"is {brief(raw_time)}, more than 106 days after the first row")
                last, last_raw = tick, raw_time
        except RowError as error:
            yield line, error
            continue
        found.append((tick, prompt, output))
        if len(found) == limit:
            return


def _scaled(tick: int, scale: Fraction) -> int:
    """Return a tick divided by ``scale``, rounded to the nearest, exactly."""
    above, below = scale.denominator, scale.numerator
    return (2 * tick * above + below) // (2 * below)
