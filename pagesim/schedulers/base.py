"""A scheduler, put together: a policy is the order in which ``plan`` walks the queues.

schedule    grow       room for the next token of everyone who runs     growth, preemption
            resume     those that were swapped out                      admission
            admit      those that wait                                  admission
            complete   the decodes and the counts of the step
commit      tokens, first tokens, ends                                  progress
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.backend import Step
from pagesim.journal import Journal
from pagesim.schedulers.admission import Admission, Limits, Reason
from pagesim.schedulers.growth import Growth
from pagesim.schedulers.memory import Memory
from pagesim.schedulers.never import Never
from pagesim.schedulers.preemption import Preemption
from pagesim.schedulers.progress import Progress
from pagesim.schedulers.queues import Queues
from pagesim.schedulers.victims import Victim
from pagesim.sequence import Request

__all__ = ["Limits", "Reason", "Scheduler"]


Walk = Literal["decodes_first", "prompts_first"]


class Scheduler(ABC):
    """Decides who runs in the next iteration, first come first served.

    Args:
        allocator: decides where.
        account: kept up to date with every change of a block table.
        journal: counts what happens, and is told which requests have ended.
        limits: of a batch.
        victim: whom to preempt.
        twin: makes the same allocator over an empty pool, to tell "not now" from "never".
        preemption: ``recompute``, ``swap`` or ``by_sequences`` (``auto`` is resolved by the caller).
        admission: ``after_swapped`` or ``after_preempted``.

    Attributes:
        waiting, running, swapped: the requests, as ``Queues`` describes them.
    """

    chunks_prompts: ClassVar[bool] = False
    repeats: ClassVar[bool] = False
    """Whether ``plan`` depends on the queues and the pool alone: where nothing has changed it plans the same."""

    walk: ClassVar[Walk | None] = None
    """The order of ``plan``, where it is no more than ``Mixed``'s or ``PrefillFirst``'s: the engine then need not call
    it. A subclass with a ``plan`` of its own, or other methods, says it anew."""

    def __init__(
        self,
        allocator: Allocator,
        account: Account,
        journal: Journal,
        limits: Limits,
        victim: Victim,
        *,
        twin: Callable[[], Allocator],
        preemption: str = "recompute",
        admission: str = "after_swapped",
    ) -> None:
        self.allocator = allocator
        self.pool = allocator.pool
        self.account = account
        self.journal = journal
        self.limits = limits
        self.queues = Queues(self.make_memory(), account, journal)
        self.waiting, self.running = self.queues.waiting, self.queues.running
        self.swapped, self.decoding = self.queues.swapped, self.queues.decoding
        self.growth = Growth(self.queues, Preemption(self.queues, victim, preemption))
        self.admission = Admission(
            self.queues, self.growth, limits, admission, Never(twin), chunks_prompts=self.chunks_prompts
        )
        self.progress = Progress(self.queues)

    def make_memory(self) -> Memory:
        """Return the memory of the running requests; a policy may hold it longer."""
        return Memory(self.allocator, self.account)

    @abstractmethod
    def plan(self, step: Step) -> None:
        """Fill ``step``: grow, resume and admit in the order of the policy, then ``complete`` it."""

    def add(self, request: Request) -> None:
        """Queue a request that has arrived."""
        # Without forks there is nothing to wait for: each sequence prefills its own prompt.
        request.forked = request.forked or not self.queues.memory.can_fork
        self.waiting.append(request)

    def schedule(self, now: int) -> Step:
        """Return the next step. Its memory is held from here on, its tokens count from ``commit`` on."""
        self.queues.now = now
        step = Step()
        if self.queues.carried:
            self.queues.perform(step, self.queues.carried)
            self.queues.carried.clear()
        self.plan(step)
        return step

    def commit(self, step: Step, now: int) -> None:
        """Count the tokens of a step that ended at ``now``; free the sequences that have ended."""
        self.progress.commit(step, now)

    def complete(self, step: Step, *, decode: bool = True) -> None:
        """Add the decodes and the counts."""
        decoding = self.decoding
        if decode and decoding.sequences:
            step.decodes = decoding.sequences.keys()
            step.num_decodes = len(decoding.sequences)
            step.context_tokens = decoding.context_tokens
            step.table_entries = decoding.num_entries
        for chunk in step.prefills:
            step.table_entries += len(chunk.sequence.block_table)

    def has_something_to_do(self, step: Step) -> bool:
        """Whether ``step`` will not be empty, whatever is admitted."""
        return bool(step.ops or step.prefills or self.decoding.sequences)

    def may_repeat(self, step: Step) -> bool:
        """Whether the step after ``step``, just planned, is the same again, as far as everyone can grow.

        Nothing is half done, nobody was preempted, and who waits has been refused for a reason that lasts until
        a sequence ends or a request arrives.
        """
        queues = self.queues
        if step.prefills or step.ops or not step.num_decodes or self.growth.has_preempted:
            return False
        if queues.ready or queues.prefilling:
            return False
        if not (self.repeats and queues.memory.is_bulk) or queues.num_beamed:
            return False
        waits = bool(self.waiting or self.swapped)
        return not waits or self.held != "memory" or queues.memory.has_stable_refusal

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended."""
        return bool(self.waiting or self.running or self.swapped)

    @property
    def held(self) -> Reason:
        """Why the last ``schedule`` admitted no more."""
        return self.admission.held

    @property
    def refused_by_allocator(self) -> bool:
        """Whether it was the allocator or the watermark that said no."""
        return self.admission.by_allocator

    @property
    def num_seats(self) -> int:
        """Seats of ``max_num_seqs`` that are taken."""
        return self.queues.num_seats
