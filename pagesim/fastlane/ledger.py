"""What the loop has summed up, and how the recorder and the journal get it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pagesim.account import Account
from pagesim.record import REASONS
from pagesim.recorder import Recorder


@dataclass(slots=True)
class Totals:
    """What has been counted since the loop was entered, apart from what the loop keeps itself."""

    reasons: list[int] = field(default_factory=lambda: [0] * len(REASONS))
    idle: int = 0
    prefill: int = 0
    recompute: int = 0
    copies: int = 0
    copied_blocks: int = 0
    prompt_tokens: int = 0
    finished: int = 0
    recomputed: int = 0


class Counters(NamedTuple):
    """What the loop has counted since it was entered."""

    coming: int
    iterations: int
    output_tokens: int
    lookups_first: int
    lookups_retry: int
    weights: int
    overhead: int
    contexts: int
    tables: int
    peak: int


class Sums(NamedTuple):
    """Integrals since then; ``refused``: of free blocks while the allocator refused the queue's head.

    ``waited`` and the number that waits times now are the time that requests have waited, together.
    """

    live: int
    held: int
    internal: int
    external: int
    extra: int
    refused: int
    running: int
    largest_run: int
    waited: int


class State(NamedTuple):
    """What holds now: slots, blocks and requests. ``extra``: references beyond one to each block."""

    live: int
    held: int
    internal: int
    external: int
    extra: int
    refused: bool
    running: int
    largest_run: int
    waiting: int


_COUNTED: Final = (
    "iterations",
    "output_tokens",
    "lookups_first",
    "lookups_retry",
    "finished",
    "prompt_tokens",
    "recomputed_tokens",
    "copied_blocks",
)


class Ledger:
    """Adds what the loop has summed up to what the recorder and the journal had when it was entered.

    Args:
        recorder: of the run; behind while the loop runs, up to ``publish``.
        account: of the run, for the sizes of the pool.
        context_token, table_entry: of the tariff.
        is_placed: whether the policy places runs, so that holes matter.
        watch: called at marks with (ended requests, now), for a progress bar.
    """

    def __init__(
        self,
        recorder: Recorder,
        account: Account,
        *,
        context_token: int,
        table_entry: int,
        is_placed: bool,
        watch: Callable[[int, int], None] | None,
    ) -> None:
        self.recorder, self.journal = recorder, recorder.journal
        self.context_token, self.table_entry = context_token, table_entry
        self.is_placed = is_placed
        self.tail, self.block_size, self.num_blocks = account.tail, account.block_size, account.pool.num_blocks
        self.totals = Totals()
        self._watch = watch

    def mark(self) -> int:
        """Pass the mark that the recorder has been brought to; return the next one."""
        if self._watch is not None:
            self._watch(self.journal.finished + self.journal.refused, self.recorder.time)
        return self.recorder.mark()

    def begin(self, time: int, coming: int) -> None:
        """Remember what the recorder and the journal have at ``time``, when request ``coming`` comes next."""
        recorder, journal = self.recorder, self.journal
        self.totals = Totals()
        self._entered = time
        self._integrals = list(recorder.integrals)
        self._reasons, self._parts, self._idle = list(recorder.reasons), list(recorder.parts), recorder.idle
        self._counts = {name: getattr(journal, name) for name in _COUNTED}
        self._arrived = journal.arrived - coming

    def publish(self, time: int, counters: Counters, sums: Sums, state: State, reason: int, since: int) -> None:
        """Bring the recorder and the journal up to ``time``."""
        recorder, journal, totals = self.recorder, self.journal, self.totals
        span = time - self._entered
        size, slots = self.block_size, self.num_blocks * self.block_size
        held, running, waiting, refused = state.held, state.running, state.waiting, state.refused
        free = slots - held * size
        tail = self.tail
        placed = self.is_placed
        areas = (
            sums.live,
            size * sums.held - sums.internal - sums.external,
            sums.internal,
            sums.external + tail * span + size * sums.refused,
            slots * span - size * (sums.held + sums.refused),
            0,
            sums.held,
            sums.held + sums.extra,
            sums.largest_run,
            self.num_blocks * span - sums.held if placed else 0,
            sums.running,
            sums.waited + waiting * time,
            0,
        )
        recorder.integrals = [before + area for before, area in zip(self._integrals, areas, strict=True)]
        recorder.state = [
            state.live,
            size * held - state.internal - state.external,
            state.internal,
            state.external + tail + (free if refused else 0),
            0 if refused else free,
            0,
            held,
            held + state.extra,
            state.largest_run,
            self.num_blocks - held if placed else 0,
            running,
            waiting,
            0,
        ]
        recorder.reasons = [before + more for before, more in zip(self._reasons, totals.reasons, strict=True)]
        recorder.reasons[reason] += time - since
        attention, overhead = self.context_token * counters.contexts, counters.overhead
        parts = (
            counters.weights,
            attention,
            totals.prefill,
            totals.recompute,
            totals.copies,
            0,
            overhead + self.table_entry * counters.tables,
        )
        recorder.parts = [before + part for before, part in zip(self._parts, parts, strict=True)]
        recorder.idle = self._idle + totals.idle
        recorder.time = time
        recorder.saw_batch(counters.peak)
        counts = self._counts
        journal.arrived = self._arrived + counters.coming
        journal.iterations = counts["iterations"] + counters.iterations
        journal.output_tokens = counts["output_tokens"] + counters.output_tokens
        journal.lookups_first = counts["lookups_first"] + counters.lookups_first
        journal.lookups_retry = counts["lookups_retry"] + counters.lookups_retry
        journal.finished = counts["finished"] + totals.finished
        journal.prompt_tokens = counts["prompt_tokens"] + totals.prompt_tokens
        journal.recomputed_tokens = counts["recomputed_tokens"] + totals.recomputed
        journal.copied_blocks = counts["copied_blocks"] + totals.copied_blocks
