"""One row a step: when it began, how long it took, what it computed and moved, and who was in which queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagesim.backend import Step, StepResult
from pagesim.blocks import Copy, SwapIn, SwapOut
from pagesim.record import PARTS, ROW_GROUP
from pagesim.rows import Rows
from pagesim.schedulers.base import Scheduler
from pagesim.units import TICKS_PER_SECOND

TIMES: Final = ("start_s", "duration_s", *(f"{part}_s" for part in PARTS))
COUNTS: Final = (
    "prefills",
    "decodes",
    "tokens",
    "recomputed_tokens",
    "padding_tokens",
    "context_tokens",
    "table_entries",
    "copied_blocks",
    "swapped_out_blocks",
    "swapped_in_blocks",
    "preemptions_recompute",
    "preemptions_swap",
    "running",
    "waiting",
    "swapped",
    "blocks_held",
)
COLUMNS: Final = (*TIMES, *COUNTS)
"""The columns of ``steps.parquet``: times in seconds, which give the ticks back when they are rounded to them."""


Columns = dict[str, NDArray[np.int64] | NDArray[np.float64]]


class StepLog:
    """Keeps the steps of one run. ``note`` is what an engine's ``on_step`` calls.

    Args:
        scheduler: of the engine, for its queues and counters.
        folder: where many steps wait in a temporary file; the system's by default.
    """

    def __init__(self, scheduler: Scheduler, folder: Path | None = None) -> None:
        self._scheduler = scheduler
        self._rows = Rows(len(COLUMNS), folder)
        self._preemptions = (0, 0)

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, step: Step, result: StepResult, now: int) -> None:
        """Keep a step that begins now."""
        scheduler, journal = self._scheduler, self._scheduler.journal
        moved = {Copy: 0, SwapOut: 0, SwapIn: 0}
        for op in step.ops:
            moved[type(op)] += op.num_blocks
        preemptions = journal.preemptions_recompute, journal.preemptions_swap
        before, self._preemptions = self._preemptions, preemptions
        self._rows.append(
            (
                now,
                result.duration,
                *(getattr(result, part) for part in PARTS),
                len(step.prefills),
                step.num_decodes,
                step.num_tokens,
                sum(chunk.num_recomputed for chunk in step.prefills),
                step.padding_tokens,
                step.context_tokens,
                step.table_entries,
                moved[Copy],
                moved[SwapOut],
                moved[SwapIn],
                preemptions[0] - before[0],
                preemptions[1] - before[1],
                len(scheduler.running),
                len(scheduler.waiting),
                len(scheduler.swapped),
                scheduler.pool.num_held,
            )
        )

    def __iter__(self) -> Iterator[Columns]:
        """Yield the columns of some steps at a time, one row a step in the order of time."""
        for rows in self._rows.chunks(ROW_GROUP):
            yield _columns(rows)

    def table(self) -> Columns:
        """Return the columns of all steps."""
        return _columns(self._rows.read(0, len(self)))


def _columns(rows: NDArray[np.int64]) -> Columns:
    columns: Columns = {}
    for index, name in enumerate(COLUMNS):
        values: NDArray[np.int64] = rows[:, index]
        columns[name] = values / TICKS_PER_SECOND if name in TIMES else values
    return columns
