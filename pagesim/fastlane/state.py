"""What the loop works on: the batch and its counts as numbers, and the few calls that it makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pagesim.allocators.base import says
from pagesim.backend import Tariff
from pagesim.blocks import BlockOps, Copy
from pagesim.errors import InvariantError
from pagesim.fastlane.arrivals import Arrivals
from pagesim.record import REASONS
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Scheduler
from pagesim.schedulers.victims import Ranked
from pagesim.sequence import Request, Sequence, SequenceStatus

Record = list[Any]
"""A request that runs, by the places below."""

ID, LENGTH, OUTPUT, STORED, ADMITTED, FIRST, LAST, RESIDUE, END, CAPACITY, SHAPE, REQUEST = range(12)
"""Its number; tokens that its prefill stores, and that it generates from there on; tokens of the prompt stored so far;
when it was admitted, and had its first and its latest token before it decodes; the remainder of the clock at which its
tables are full; the clock at its end (0: it does not decode); slots asked for, and what that holds
(``Lane.shape``), where a policy is asked; the object, if there is one."""

NONE_YET: Final = -1
"""The tick of a first token that has not come."""


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


class Lane:
    """The state of a run between two of its steps, as numbers.

    Args:
        scheduler, recorder: of the run; they are behind while the loop runs, up to ``publish``.
        tariff: of the backend.
        arrivals: of the source.
        counts_blocks: whether the policy says so; otherwise it is called where a request comes, goes or outgrows
            its table.
        horizon: tick at which the run is cut off, ``NEVER`` if it is not.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        recorder: Recorder,
        tariff: Tariff,
        arrivals: Arrivals,
        *,
        counts_blocks: bool,
        num_sequences: int,
        horizon: int,
    ) -> None:
        self.scheduler, self.recorder, self.tariff, self.arrivals = scheduler, recorder, tariff, arrivals
        self.counts_blocks, self.num_sequences, self.horizon = counts_blocks, num_sequences, horizon
        self.queues, self.account, self.journal = scheduler.queues, scheduler.account, scheduler.journal
        self.pool, self.allocator = scheduler.pool, scheduler.allocator
        self.block_size, self.num_blocks, self.watermark = (
            self.pool.block_size,
            self.pool.num_blocks,
            self.pool.watermark,
        )
        limits = scheduler.limits
        self.max_num_seqs, self.max_num_batched_tokens = limits.max_num_seqs, limits.max_num_batched_tokens
        self.chunks_prompts = scheduler.chunks_prompts
        self.prompts_first = scheduler.walk == "prompts_first"
        self.shares_forks = bool(getattr(scheduler.allocator, "shares_forks", False))
        self.is_stable = counts_blocks or self.queues.memory.has_stable_refusal
        self._largest_free_run: Callable[[], int] | None = getattr(self.allocator, "largest_free_run", None)
        self.is_placed = self._largest_free_run is not None
        self.context_token, self.table_entry = tariff.context_token, tariff.table_entry
        self.fixed: dict[int, tuple[int, int]] = {}
        self.gaps = self.journal.gaps
        self.measured_from, self.measured_end = arrivals.measured
        # Set by ``exchange.enter``:
        self.running: dict[int, Record] = {}
        self.ready: list[Record] = []
        self.prefilling: list[Record] = []
        self.front: deque[Request] = self.queues.waiting.front
        self.ending: dict[int, list[Record]] = {}
        self.never_at: dict[int, int] = {}
        self.due_at: dict[int, list[Record]] = {}
        self.pace = [0] * self.block_size
        self.clock = self.granted = self.seats = self.last_tick = 0
        self.head = self.coming = self.num_waiting = 0
        self.refused_id = self.asked_id = -1
        self.refused_at = self.generation = self.reason = 0
        self.held = self.live = self.internal = self.external = self.extra = 0
        self.totals = Totals()
        self.is_cut_off = False
        self.carried = BlockOps()

    # Requests

    def oldest(self, head: int) -> int:
        """Return the first request whose numbers are needed still."""
        return min(head, min(self.running, default=head))

    def refuse(self, number: int, request: Request | None, reason: str) -> None:
        """End a request that was waiting."""
        if request is None:
            request = self.make(number)
        self.queues.refuse(request, reason)

    def refuse_long(self, number: int) -> None:
        """End a request that arrives and is too long."""
        request = self.arrivals.make_any(number)
        request.status = SequenceStatus.REFUSED
        request.reason = self.arrivals.too_long(request)
        self.journal.refused += 1
        self.journal.ended(request)

    def make(self, number: int) -> Request:
        """Return a request that waits."""
        request = self.arrivals.make(number)
        if request is None:
            raise InvariantError(f"request {number} waits though it was refused on arrival")
        return request

    def sizes(self, request: Request) -> tuple[int, int, int]:
        """Return its number, and how many tokens it stores first and generates from there on."""
        sequence = request.sequences[0]
        return request.id, sequence.num_prefill, sequence.num_output - sequence.num_generated

    def num_again(self, rec: Record, num_tokens: int) -> int:
        """Return how many of the next ``num_tokens`` of its prompt had been stored before it was preempted."""
        lost: int = rec[REQUEST].sequences[0].num_lost
        stored: int = rec[STORED]
        return max(min(stored + num_tokens, lost) - stored, 0)

    def is_first_token(self, rec: Record, now: int) -> bool:
        """Count the token at the end of a prefill of a request that is there as an object."""
        request: Request = rec[REQUEST]
        sequence = request.sequences[0]
        if sequence.num_generated and request.measured:
            self.gaps.add(now - sequence.last_token_at)
        rec[FIRST] = now if request.first_token_at is None else request.first_token_at
        return request.first_token_at is None

    def finish(self, rec: Record, now: int) -> None:
        """Record a request that has its last token, and give back what it holds by name."""
        request: Request = rec[REQUEST] if rec[REQUEST] is not None else self.make(rec[ID])
        if request.admitted_at is None:
            request.admitted_at = rec[ADMITTED]
        request.first_token_at, request.last_token_at, request.finished_at = rec[FIRST], now, now
        for sequence in request.sequences:
            sequence.num_generated = sequence.num_output
        self.give_back(request.sequences[0])
        request.num_live = 0
        request.status = SequenceStatus.FINISHED
        self.queues.preempted.pop(request, None)
        self.totals.finished += 1
        self.journal.ended(request)

    def give_back(self, sequence: Sequence) -> None:
        """Give back the blocks of a sequence at its end that have numbers."""
        sequence.num_stored = sequence.num_final
        if not sequence.block_table:
            return
        if self.counts_blocks:
            self.pool.give(sequence.block_table)
            sequence.block_table = []
        else:
            self.allocator.free(sequence)

    # Preemption

    @property
    def can_preempt(self) -> bool:
        """Whether somebody can be preempted without asking for requests: for computing it again, by rank."""
        preemption = self.scheduler.growth.preemption
        computes_again = preemption.mode != "swap" or not self.queues.memory.can_swap
        return (
            self.counts_blocks
            and self.num_sequences == 1
            and computes_again
            and self.scheduler.admission.rule == "after_swapped"
            and isinstance(preemption.victim, Ranked)
            and says(preemption.victim, "rank", "choose")
        )

    def due(self, clock: int) -> list[Record]:
        """Return those who need a block for their next token, in the order of admission."""
        size = self.block_size
        return [
            rec
            for rec in self.running.values()
            if (
                not (clock - rec[RESIDUE]) % size if rec[END] else rec[STORED] == rec[LENGTH] and not rec[LENGTH] % size
            )
        ]

    def victim(self, rec: Record, clock: int) -> Record | None:
        """Return who has to go so that ``rec`` can grow: somebody admitted after it, or it; None if it is alone."""
        order = list(self.running.values())
        policy = self.scheduler.growth.preemption.victim
        assert isinstance(policy, Ranked)
        candidates = order[next(place for place, other in enumerate(order) if other is rec) + 1 :]
        if not candidates:
            return rec if len(order) > 1 else None

        def key(other: Record) -> tuple[int, int]:
            stored, left = num_stored(other, clock), num_left(other, clock)
            request = other[REQUEST]
            output = self.arrivals.output(other[ID]) if request is None else request.sequences[0].num_output
            return policy.rank(stored, output - left, left), other[ID]

        return max(candidates, key=key)

    def evict(self, rec: Record, clock: int, last_tick: int) -> tuple[int, int, int]:
        """Take the memory of ``rec``; it waits in front of all others.

        Returns its stored tokens, its blocks, and the slots of those that it would never have written.
        """
        request: Request = self.make(rec[ID]) if rec[REQUEST] is None else rec[REQUEST]
        rec[REQUEST] = request
        sequence, size = request.sequences[0], self.block_size
        stored, left = num_stored(rec, clock), num_left(rec, clock)
        final = rec[LENGTH] + rec[OUTPUT] - 1
        blocks = -(-max(stored, rec[LENGTH] if not rec[END] else 0) // size)
        if rec[END]:
            self.ending[rec[END]].remove(rec)
            self.pace[rec[RESIDUE]] -= 1
            beyond = final % size
            if beyond and final - beyond >= stored:
                self.never_at[clock + final - beyond - stored] -= size - beyond
        elif rec[STORED] == rec[LENGTH]:
            self.ready.remove(rec)
        else:
            self.prefilling.remove(rec)
        del self.running[rec[ID]]
        request.admitted_at = rec[ADMITTED]
        if rec[STORED] == rec[LENGTH]:
            request.first_token_at = rec[FIRST]
            sequence.last_token_at = last_tick if rec[END] else rec[LAST]
        sequence.num_generated = sequence.num_output - left
        sequence.num_lost = max(sequence.num_lost, stored)
        sequence.num_stored = 0
        if sequence.block_table:
            self.pool.give(sequence.block_table)
            sequence.block_table = []
        self.journal.preemptions_recompute += 1
        request.num_preemptions_recompute += 1
        request.fits_alone = False
        request.requeue()
        self.queues.preempted[request] = None
        self.front.appendleft(request)
        return stored, blocks, max(blocks * size - final, 0)

    # The policy, where it is asked

    def largest_run(self) -> int:
        """Return the longest run of free blocks; 0 for policies that place none."""
        return 0 if self._largest_free_run is None else self._largest_free_run()

    def admit(self, request: Request, floor: int) -> int | None:
        """Ask for the prompt of a request: how many blocks are copied for it, or None."""
        ops = self.queues.memory.ask(request.sequences[0], request.sequences[0].num_prefill, above=floor)
        return None if ops is None else self._num_copied(ops)

    def never(self, request: Request) -> bool:
        """Whether an empty pool would refuse the prompt too."""
        return self.scheduler.admission.never(request.sequences[:1])

    def ask(self, records: list[Record], clock: int) -> int | None:
        """Ask for the next token of each of ``records``: how many blocks are copied, or None, at the first refusal.

        Then ``carried`` keeps the moves of those before it: they are part of the scheduler's next step.
        """
        num_copied = 0
        for rec in records:
            sequence = rec[REQUEST].sequences[0]
            sequence.num_stored = num_stored(rec, clock)
            ops = self.queues.memory.ask(sequence, 1)
            if ops is None:
                return None
            num_copied += self._num_copied(ops)
            self.carried += ops
            rec[SHAPE] = self.shape(rec)
            if rec[END]:
                self.enter_due(rec, clock)
        self.carried.clear()
        return num_copied

    def enter_due(self, rec: Record, clock: int) -> None:
        """Note when a sequence that decodes outgrows its table, if it does."""
        due = clock + max(rec[CAPACITY] - num_stored(rec, clock), 1)
        if due < rec[END]:
            self.due_at.setdefault(due, []).append(rec)

    def shape(self, rec: Record) -> tuple[int, int, int]:
        """Return what a sequence holds: blocks, slots never to be written, slots beyond what was asked for."""
        sequence = rec[REQUEST].sequences[0]
        blocks = len(sequence.block_table)
        capacity = blocks * self.block_size
        asked = capacity if sequence.num_asked is None else sequence.num_asked
        rec[CAPACITY] = asked
        return blocks, max(asked - sequence.num_final, 0), capacity - asked

    def held_by(self, records: list[Record]) -> tuple[int, ...]:
        """Return what ``records`` hold, in sum: as ``shape`` says it."""
        return tuple(map(sum, zip(*(rec[SHAPE] for rec in records), strict=True))) or (0, 0, 0)

    def _num_copied(self, ops: list[Any]) -> int:
        num_copied = 0
        for op in ops:
            if not isinstance(op, Copy):
                raise InvariantError(f"{type(self.allocator).__name__} says `bulk`, but its allocate plans {op}")
            num_copied += op.num_blocks
        return num_copied

    # The recorder

    def begin(self, time: int) -> None:
        """Remember what the recorder and the journal have at ``time``, to add to it."""
        recorder, journal = self.recorder, self.journal
        self.totals = Totals()
        self._entered = time
        self._integrals = list(recorder.integrals)
        self._reasons, self._parts, self._idle = list(recorder.reasons), list(recorder.parts), recorder.idle
        self._counts = {name: getattr(journal, name) for name in _COUNTED}
        self._arrived = journal.arrived - self.coming

    def publish(self, time: int, counters: Counters, sums: Sums, state: State, reason: int, since: int) -> None:
        """Bring the recorder and the journal up to ``time``."""
        recorder, journal, totals = self.recorder, self.journal, self.totals
        span = time - self._entered
        size, slots = self.block_size, self.num_blocks * self.block_size
        held, running, waiting, refused = state.held, state.running, state.waiting, state.refused
        free = slots - held * size
        tail = self.account.tail
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


def num_stored(rec: Record, clock: int) -> int:
    """Return the stored tokens of a request: of its prompt, or while it decodes at ``clock``."""
    stored: int = rec[STORED]
    return stored + clock - (rec[END] - rec[OUTPUT] + 1) if rec[END] > clock else stored


def num_left(rec: Record, clock: int) -> int:
    """Return how many tokens are still to come, while it decodes at ``clock`` or before."""
    if rec[END]:
        left: int = rec[END] - clock
    else:
        left = rec[OUTPUT] - (rec[STORED] == rec[LENGTH])  # the end of the prompt gives the first
    return left
