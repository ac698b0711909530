"""What a run leaves behind, as plain data: what the recorder fills and the metrics read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagesim.journal import GapHistogram
from pagesim.rows import Rows

INTEGRALS: Final = (
    "live",
    "useful",
    "internal",
    "external",
    "free",
    "cached",
    "blocks_held",
    "references",
    "largest_free_run",
    "free_blocks",
    "running",
    "waiting",
    "swapped",
)
"""Quantities integrated over time: slots, blocks and requests, times ticks."""

REASONS: Final = ("load", "memory", "sequences", "tokens")
"""What held admission back, in ticks."""

PARTS: Final = ("weights", "attention", "prefill", "recompute", "copies", "swaps", "overhead")
"""Where the time of the steps went, in ticks."""

COUNTERS: Final = (
    "arrived",
    "finished",
    "refused",
    "iterations",
    "prompt_tokens",
    "output_tokens",
    "preemptions_recompute",
    "preemptions_swap",
    "recomputed_tokens",
    "swapped_out_blocks",
    "swapped_in_blocks",
    "swap_stall",
    "copied_blocks",
    "matched_tokens",
    "lookups_first",
    "lookups_retry",
    "lookups_preempted",
)
"""Names of the journal's counters."""

EDGE_COUNTERS: Final = (
    "finished",
    "output_tokens",
    "preemptions_recompute",
    "preemptions_swap",
    "copied_blocks",
    "swapped_out_blocks",
    "swapped_in_blocks",
)
"""Counters that are kept at the edges of the timeline's bins, behind the integrals."""

REQUEST_COLUMNS: Final = (
    "request",
    "arrival",
    "prompt_tokens",
    "output_tokens",
    "num_sequences",
    "admitted_at",
    "first_token_at",
    "last_token_at",
    "preemptions_recompute",
    "preemptions_swap",
    "recomputed_tokens",
    "measured",
    "status",
    "reason",
)
"""Integers of a request's row. An instant that never came is ``NO_INSTANT``; instants are ticks. A status is a
place in ``STATUSES``, a reason one in the record's ``reasons``."""

ROW_GROUP: Final = 1 << 14
"""So many requests or steps are written at a time: the rows of a row group of their tables."""

NO_INSTANT: Final = -1
STATUSES: Final = ("finished", "refused", "unfinished")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Integrals and counters at one instant, from the start of the run."""

    time: int
    integrals: dict[str, int]
    reasons: dict[str, int]
    parts: dict[str, int]
    idle: int
    counters: dict[str, int]
    num_waiting: int


@dataclass(frozen=True, slots=True)
class RequestRows:
    """Rows of some requests, in the order of ids.

    Attributes:
        rows: (requests, len(REQUEST_COLUMNS)).
        reasons: why requests were refused; the first is empty.
    """

    rows: NDArray[np.int64]
    reasons: Sequence[str]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> NDArray[np.int64]:
        """Return one column."""
        return self.rows[:, REQUEST_COLUMNS.index(name)]


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that was recorded of one run.

    Attributes:
        num_slots: slots of the device pool, the tail outside whole blocks included.
        block_bytes: bytes of a block.
        is_placed: whether the policy places runs, so that holes matter.
        start, end: the whole run.
        opened, closed: the measuring window, None where it never opened or closed.
        peak_running: the largest batch of the whole run, and of the window.
        bin_width: ticks of a timeline bin; ``edges`` are the integrals and the
            ``EDGE_COUNTERS`` at its edges, from 0 on.
        rows: one row a request, of the ``REQUEST_COLUMNS``, in the order of ids.
        reasons: why requests were refused, each reason once; the first is empty.
        gaps: between the tokens of measured requests.
    """

    num_slots: int
    block_bytes: int
    is_placed: bool
    start: Snapshot
    end: Snapshot
    opened: Snapshot | None
    closed: Snapshot | None
    peak_running: int
    peak_running_in_window: int
    bin_width: int
    edges: list[tuple[int, ...]]
    rows: Rows
    reasons: Sequence[str]
    gaps: GapHistogram

    def chunks(self, size: int | None = None) -> Iterator[RequestRows]:
        """Yield all requests, ``size`` at a time: one chunk at least, which is empty if there are none."""
        for rows in self.rows.chunks(size) if len(self.rows) else [self.rows.read(0, 0)]:
            yield RequestRows(rows, self.reasons)

    @property
    def requests(self) -> NDArray[np.int64]:
        """All rows at once, for few requests: (requests, len(REQUEST_COLUMNS))."""
        return self.rows.read(0, len(self.rows))

    @property
    def refusals(self) -> dict[int, str]:
        """Request -> why it was refused, for few requests."""
        chosen = self.column("reason") > 0
        ids, reasons = self.column("request")[chosen].tolist(), self.column("reason")[chosen].tolist()
        return {request: self.reasons[reason] for request, reason in zip(ids, reasons, strict=True)}

    def column(self, name: str) -> NDArray[np.int64]:
        """Return one column of all requests, for few of them."""
        return self.requests[:, REQUEST_COLUMNS.index(name)]
