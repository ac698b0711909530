"""From a file to the requests it has recorded."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagesim.config import TraceConfig
from pagesim.errors import TraceError
from pagesim.workload.arrivals import MAX_TICKS
from pagesim.workload.traces.formats import FORMATS, Format, lengths_format
from pagesim.workload.traces.lookup import find_trace
from pagesim.workload.traces.records import Raw, records
from pagesim.workload.traces.values import RowError, brief, length


@dataclass(frozen=True, eq=False)
class TraceRows:
    """Requests of a trace in the order of the file. Arrays are (num_rows,) and cannot be written.

    Attributes:
        path: the file.
        arrivals: ticks, non-decreasing; None if the file has no times.
        prompt_tokens: from 1; output_tokens: from 1.
        skipped_rows: malformed rows that were left out.
    """

    path: Path
    arrivals: NDArray[np.int64] | None
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    skipped_rows: int

    def __post_init__(self) -> None:
        for values in (self.arrivals, self.prompt_tokens, self.output_tokens):
            if values is not None:
                values.flags.writeable = False

    def __len__(self) -> int:
        return len(self.prompt_tokens)


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
    if rows.arrivals is None or config.rate_scale == 1:
        return rows
    return TraceRows(
        rows.path,
        _rescale(path, rows.arrivals, config.rate_scale),
        rows.prompt_tokens,
        rows.output_tokens,
        rows.skipped_rows,
    )


# the runs of an experiment read the same trace one after the other
@lru_cache(maxsize=4)
def _read(path: Path, layout: Format, limit: int | None, skips: bool, stamp: tuple[int, int]) -> TraceRows:
    has_times, rows = records(path, layout)
    times, prompts, outputs = array("q"), array("q"), array("q")
    num_skipped = 0
    first_problem = ""
    for line, problem in _collect(rows, layout if has_times else None, layout, limit, times, prompts, outputs):
        text = f"{path}:{line}: {problem}"
        if not skips:
            raise TraceError(text)
        first_problem = first_problem or text
        num_skipped += 1
    if not prompts:
        if num_skipped:
            raise TraceError(
                f"{path}: none of its {num_skipped} rows is well-formed; the first problem: {first_problem}"
            )
        raise TraceError(f"{path}: has a header and no rows" if not layout.is_json else f"{path}: has no rows")
    return TraceRows(
        path=path,
        arrivals=np.array(times, dtype=np.int64) if has_times else None,
        prompt_tokens=np.array(prompts, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
        skipped_rows=num_skipped,
    )


def _collect(
    rows: Iterator[tuple[int, Raw | RowError]],
    timed: Format | None,
    layout: Format,
    limit: int | None,
    times: array[int],
    prompts: array[int],
    outputs: array[int],
) -> Iterator[tuple[int, RowError]]:
    """Append what rows hold, up to ``limit`` of them, and yield the malformed ones with their lines."""
    start: int | None = None if layout.is_wall_clock else 0
    last = 0
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
                times.append(tick)
        except RowError as error:
            yield line, error
            continue
        prompts.append(prompt)
        outputs.append(output)
        if len(prompts) == limit:
            return


def _rescale(path: Path, arrivals: NDArray[np.int64], rate_scale: float) -> NDArray[np.int64]:
    """Return ticks divided by ``rate_scale``, rounded to the nearest, exactly."""
    scale = Fraction(str(rate_scale))
    above, below = scale.denominator, scale.numerator
    ticks = [(2 * tick * above + below) // (2 * below) for tick in arrivals.tolist()]
    if ticks[-1] > MAX_TICKS:
        raise TraceError(
            f"{path}: with rate_scale {rate_scale} its last request arrives later than in 106 days, the longest "
            "that can be simulated; raise rate_scale or set limit"
        )
    return np.array(ticks, dtype=np.int64)
