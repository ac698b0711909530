"""Turns the states that a run passes through into exact integrals, bins and rows.

A state lasts from one instant to the next. Each of its quantities is integrated over time as an
integer; a snapshot of the integrals is taken at each edge of a bin or of the measuring window, and
means are differences of snapshots. When there are too many bins, every other edge is dropped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.backend import StepResult
from pagesim.journal import Journal
from pagesim.record import (
    COUNTERS,
    EDGE_COUNTERS,
    INTEGRALS,
    NO_INSTANT,
    PARTS,
    REASONS,
    REQUEST_COLUMNS,
    STATUSES,
    Record,
    Snapshot,
)
from pagesim.rows import InOrder, Rows
from pagesim.schedulers.base import Scheduler
from pagesim.sequence import Request, SequenceStatus
from pagesim.units import TICKS_PER_SECOND


class Recorder:
    """Records one run.

    Args:
        account, journal, scheduler, allocator: what is looked at.
        num_bins: at most this many bins in the timeline; at least half as many once it is full.
        window: first and last tick of the measuring window, where they are known before the run.
        first_bin: ticks of a bin at the beginning. ``first_bin_of`` saves edges that would be dropped later.
        folder: where the rows of many requests wait in a temporary file; the system's by default.
    """

    FIRST_BIN: Final = TICKS_PER_SECOND // 1000

    def __init__(
        self,
        account: Account,
        journal: Journal,
        scheduler: Scheduler,
        allocator: Allocator,
        *,
        num_bins: int = 1000,
        window: tuple[int, int] | None = None,
        first_bin: int = FIRST_BIN,
        folder: Path | None = None,
    ) -> None:
        self.account = account
        self.journal = journal
        self.scheduler = scheduler
        self.time = 0
        self.state = [0] * len(INTEGRALS)
        self.integrals = [0] * len(INTEGRALS)
        self.reasons = [0] * len(REASONS)
        self.parts = [0] * len(PARTS)
        self.idle = 0
        self.peak_running = 0
        self.peak_in_window = 0
        self.window_opened: Snapshot | None = None
        self.window_closed: Snapshot | None = None
        self.rows = InOrder(Rows(len(REQUEST_COLUMNS), folder))
        self.add_row = self.rows.add  # called with the integers of ``REQUEST_COLUMNS``
        self.refusals = {"": 0}
        self._window = window
        self._num_bins = num_bins
        self._bin_width = first_bin
        self._edges: list[tuple[int, ...]] = [self._edge(0)]
        self._reason = 0
        self._is_idle = True
        self._largest_free_run = getattr(allocator, "largest_free_run", None)
        self._pool_state = (-1, 0)  # the one that the largest free run was last asked for
        self._start = self._snapshot()
        if window and window[0] == 0:
            self.open_window()
        self.next_mark = self._mark_after()
        journal.ended = self.ended

    @classmethod
    def first_bin_of(cls, duration: int, num_bins: int) -> int:
        """Return the width that bins have at least at the end of a run that lasts ``duration`` ticks at least."""
        width = cls.FIRST_BIN
        while duration // width + 1 > num_bins:
            width *= 2
        return width

    @property
    def watches_pool(self) -> bool:
        """Whether the pool is looked at while the run goes on."""
        return False

    # While the run goes on

    def observe(self, *, idle: bool) -> None:
        """Take the state that holds from now on."""
        account, scheduler, state = self.account, self.scheduler, self.state
        pool = account.pool
        free = (pool.num_blocks - pool.num_held) * account.block_size
        outside = account.external + account.tail
        if scheduler.refused_by_allocator:
            outside += free
            state[4] = 0
        else:
            state[4] = free
        state[0] = account.live
        state[1] = account.useful
        state[2] = account.internal
        state[3] = outside
        state[5] = account.cached
        state[6] = pool.num_held
        state[7] = account.references
        if self._largest_free_run is not None and self._pool_state != (pool.generation, pool.num_held):
            self._pool_state = (pool.generation, pool.num_held)
            state[8] = self._largest_free_run()
            state[9] = pool.num_blocks - pool.num_held
        running = len(scheduler.running)
        state[10] = running
        state[11] = len(scheduler.waiting)
        state[12] = len(scheduler.swapped)
        self.saw_batch(running)
        self._reason = REASONS.index(scheduler.held)
        self._is_idle = idle

    def saw_batch(self, num_running: int) -> None:
        """Keep the size of the largest batch."""
        if num_running > self.peak_running:
            self.peak_running = num_running
        if num_running > self.peak_in_window and self.is_measuring:
            self.peak_in_window = num_running

    def observe_growth(self) -> None:
        """Take the state after a step in which running sequences grew, and nothing else happened."""
        account, state = self.account, self.state
        pool = account.pool
        num_held = pool.num_held
        state[0] = account.live
        if num_held != state[6]:
            state[1] = account.useful
            state[2] = account.internal
            free = (pool.num_blocks - num_held) * account.block_size
            if self.scheduler.refused_by_allocator:
                state[3] = account.external + account.tail + free
            else:
                state[4] = free
            state[6] = num_held
            state[7] = account.references

    def queued(self) -> None:
        """Take the new length of the waiting queue."""
        self.state[11] = len(self.scheduler.waiting)

    def advance(self, now: int) -> None:
        """Let the state last until ``now``."""
        while now >= self.next_mark:
            self._last(self.next_mark)
            self._mark()
        if now > self.time:
            self._last(now)

    def skip(self, num_steps: int, first: int, slope: StepResult, result: StepResult, num_decodes: int) -> None:
        """Advance over ``num_steps`` steps that last first, first + slope, ... ticks, and begin the one after them.

        Nothing but the live slots changes from one to the next, by ``num_decodes``; no mark lies between.

        Args:
            result: of the first of them.
            slope: by how much each result is larger than the one before.
        """
        pairs = num_steps * (num_steps - 1) // 2
        span = num_steps * first + slope.duration * pairs
        # live grows by num_decodes after each step: the sum of j * (first + j * slope) over j < num_steps
        grown = first * pairs + slope.duration * (pairs * (2 * num_steps - 1) // 3)
        self._last(self.time + span)
        self.integrals[0] += num_decodes * grown
        self.state[0] += num_decodes * num_steps
        begun = num_steps * (num_steps + 1) // 2
        self.parts = [
            total + num_steps * part + begun * added
            for total, part, added in zip(self.parts, result[1:], slope[1:], strict=True)
        ]

    def stepped(self, result: StepResult) -> None:
        """Add up where the time of a step went."""
        parts = self.parts
        _, weights, attention, prefill, recompute, copies, swaps, overhead = result
        parts[0] += weights
        parts[1] += attention
        parts[6] += overhead
        if prefill or recompute or copies or swaps:
            parts[2] += prefill
            parts[3] += recompute
            parts[4] += copies
            parts[5] += swaps

    def mark(self) -> int:
        """Note that ``next_mark`` is now; return the one after it."""
        self._mark()
        return self.next_mark

    def open_window(self, num_running: int | None = None) -> None:
        """Start measuring now, with ``num_running`` requests in the batch (by default those that run)."""
        self.window_opened = self._snapshot()
        self.peak_in_window = len(self.scheduler.running) if num_running is None else num_running

    def close_window(self) -> None:
        """Stop measuring now."""
        if self.window_opened is not None and self.window_closed is None:
            self.window_closed = self._snapshot()

    @property
    def is_measuring(self) -> bool:
        """Whether the window is open now."""
        return self.window_opened is not None and self.window_closed is None

    def ended(self, request: Request) -> None:
        """Keep the row of a request that has finished, was refused, or was cut off."""
        refused = request.status is SequenceStatus.REFUSED
        status = "finished" if request.status is SequenceStatus.FINISHED else "refused" if refused else "unfinished"
        self.rows.add(
            (
                request.id,
                request.arrival,
                request.prompt_tokens,
                request.output_tokens,
                len(request.sequences),
                _instant(request.admitted_at),
                _instant(request.first_token_at),
                _instant(request.last_token_at),
                request.num_preemptions_recompute,
                request.num_preemptions_swap,
                request.num_recomputed,
                request.measured,
                STATUSES.index(status),
                self.refusals.setdefault(request.reason, len(self.refusals)) if refused else 0,
            )
        )

    # Afterwards

    def record(self, block_bytes: int) -> Record:
        """Return what was recorded. ``block_bytes``: of one block of the pool."""
        edges = list(self._edges)
        if self.time > (len(edges) - 1) * self._bin_width:  # fill the last bin with the last state
            rest = len(edges) * self._bin_width - self.time
            edges.append(self._edge(rest))
        return Record(
            num_slots=self.account.num_slots,
            block_bytes=block_bytes,
            is_placed=self._largest_free_run is not None,
            start=self._start,
            end=self._snapshot(),
            opened=self.window_opened,
            closed=self.window_closed,
            peak_running=self.peak_running,
            peak_running_in_window=self.peak_in_window,
            bin_width=self._bin_width,
            edges=edges,
            rows=self.rows.finish(),
            reasons=list(self.refusals),
            gaps=self.journal.gaps,
        )

    # Inside

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            time=self.time,
            integrals=dict(zip(INTEGRALS, self.integrals, strict=True)),
            reasons=dict(zip(REASONS, self.reasons, strict=True)),
            parts=dict(zip(PARTS, self.parts, strict=True)),
            idle=self.idle,
            counters={name: getattr(self.journal, name) for name in COUNTERS},
            num_waiting=self.state[INTEGRALS.index("waiting")],
        )

    def _edge(self, rest: int) -> tuple[int, ...]:
        """Return the integrals, as if the state had lasted ``rest`` ticks more, and the counters."""
        journal = self.journal
        areas = [total + rest * value for total, value in zip(self.integrals, self.state, strict=True)]
        return (*areas, *(getattr(journal, name) for name in EDGE_COUNTERS))

    def _last(self, until: int) -> None:
        span = until - self.time
        self.integrals = [area + value * span for area, value in zip(self.integrals, self.state, strict=True)]
        self.reasons[self._reason] += span
        if self._is_idle:
            self.idle += span
        self.time = until

    def _mark(self) -> None:
        if self._window is not None:
            if self.time == self._window[0] and self.window_opened is None:
                self.open_window(self.state[INTEGRALS.index("running")])
            if self.time == self._window[1]:
                self.close_window()
        if self.time == len(self._edges) * self._bin_width:
            self._edges.append(self._edge(0))
            if len(self._edges) > self._num_bins:
                del self._edges[1::2]
                self._bin_width *= 2
        self.next_mark = self._mark_after()

    def _mark_after(self) -> int:
        mark = len(self._edges) * self._bin_width
        if self._window is not None:
            mark = min([mark, *(edge for edge in self._window if edge > self.time)])
        return mark


def _instant(tick: int | None) -> int:
    return NO_INSTANT if tick is None else tick
