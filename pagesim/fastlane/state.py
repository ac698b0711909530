"""What the loop works on: the batch and its counts as numbers, and the few calls that it makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pagesim.backend import Tariff
from pagesim.blocks import BlockOps
from pagesim.errors import InvariantError
from pagesim.fastlane.arrivals import Arrivals
from pagesim.fastlane.ledger import Ledger
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Scheduler
from pagesim.sequence import Request, Sequence, SequenceStatus

Record = list[Any]
"""A request that runs, by the places below."""

ID, LENGTH, OUTPUT, STORED, ADMITTED, FIRST, LAST, RESIDUE, END, CAPACITY, SHAPE, REQUEST = range(12)
"""Its number; tokens that its prefill stores, and that it generates from there on; tokens of the prompt stored so far;
when it was admitted, and had its first and its latest token before it decodes; the remainder of the clock at which its
tables are full; the clock at its end (0: it does not decode); slots asked for, and what that holds
(``asking.shape``), where a policy is asked; the object, if there is one."""

NONE_YET: Final = -1
"""The tick of a first token that has not come."""


class Lane:
    """The state of a run between two of its steps, as numbers.

    Args:
        scheduler, recorder: of the run; they are behind while the loop runs (see ``ledger``).
        tariff: of the backend.
        arrivals: of the source.
        counts_blocks: whether the policy says so; otherwise it is called where a request comes, goes or outgrows
            its table.
        num_sequences: of each request.
        horizon: tick at which the run is cut off, ``NEVER`` if it is not.
        watch: see ``Ledger``.
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
        watch: Callable[[int, int], None] | None,
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
        self.largest_free_run: Callable[[], int] | None = getattr(self.allocator, "largest_free_run", None)
        self.ledger = Ledger(
            recorder,
            self.account,
            context_token=tariff.context_token,
            table_entry=tariff.table_entry,
            is_placed=self.largest_free_run is not None,
            watch=watch,
        )
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
        self.queues.refuse(*self.arrivals.refused(number))

    def receive(self, coming: int, until: int, head: int) -> tuple[int, int, int, int]:
        """Let requests arrive before ``until``, from ``coming`` on; ``head`` waits in front.

        Returns who comes next, and when; how many wait now that did not, and the sum of their arrivals.
        """
        num_new = instants = 0
        while (arrival := self.arrivals.instant(coming, self.oldest(head))) < until:
            if self.arrivals.is_too_long(coming):
                self.refuse_long(coming)
            else:
                num_new += 1
                instants += arrival
            coming += 1
        return coming, arrival, num_new, instants

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
        sequence: Sequence = rec[REQUEST].sequences[0]
        return sequence.num_lost_among(rec[STORED], num_tokens)

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
        self.ledger.totals.finished += 1
        self.journal.ended(request)

    def give_back(self, sequence: Sequence) -> None:
        """Give back the blocks of a sequence at its end that have numbers."""
        sequence.num_stored, sequence.num_generated = sequence.num_final, sequence.num_output
        if not sequence.block_table:
            return
        if self.counts_blocks:
            self.pool.give(sequence.block_table)
            sequence.block_table = []
        else:
            self.allocator.free(sequence)


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
