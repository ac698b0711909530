"""Looks over the scheduler's shoulder: the parts of it that decide, with a note taken of each decision.

They decide exactly as the parts that they stand in for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pagesim.backend import Step
from pagesim.blocks import BlockOps
from pagesim.schedulers.admission import Admission, Reason
from pagesim.schedulers.base import Scheduler
from pagesim.schedulers.preemption import Preemption
from pagesim.sequence import Request


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a request was not let in.

    Attributes:
        request: the first of its queue.
        reason: what was missing.
        by_allocator: whether the allocator or the watermark said no.
        num_free: free blocks at that moment; ``floor``: of them, those that an admission leaves free.
        largest_run: the longest free run, where the policy places runs.
        num_seats: that were taken.
        num_swapped: requests that were swapped out.
    """

    request: Request
    reason: Reason
    by_allocator: bool
    num_free: int
    floor: int
    largest_run: int | None
    num_seats: int
    num_swapped: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A preemption: whose memory was taken, who needed it, and how many blocks it had."""

    victim: Request
    asker: Request
    num_blocks: int
    num_stored: int


@dataclass(slots=True)
class Notes:
    """What one call of ``schedule`` decided.

    Attributes:
        holds: by queue (``waiting``, ``swapped``), why its first request was not let in.
        taken: the preemptions, in order.
    """

    holds: dict[str, Hold] = field(default_factory=dict)
    taken: list[Taken] = field(default_factory=list)

    def clear(self) -> None:
        """Forget them: the step has been looked at."""
        self.holds.clear()
        self.taken.clear()


class WatchedAdmission(Admission):
    """Admits like the one that it stands in for, and notes why it stops."""

    def __init__(self, admission: Admission, notes: Notes) -> None:
        super().__init__(
            admission.queues,
            admission.growth,
            admission.limits,
            admission.rule,
            admission.never,
            chunks_prompts=admission.chunks_prompts,
        )
        self._notes = notes
        self._queue = "waiting"
        self._largest: Callable[[], int] | None = getattr(self.queues.memory.allocator, "largest_free_run", None)

    def resume(self, step: Step, budget: int) -> int:
        """Bring swapped requests back."""
        self._queue = "swapped"
        self._notes.holds.pop("swapped", None)
        budget = super().resume(step, budget)
        self._queue = "waiting"
        return budget

    def hold(self, reason: Reason, *, by_allocator: bool = False) -> None:
        """Note why nothing more is admitted."""
        super().hold(reason, by_allocator=by_allocator)
        queues, pool = self.queues, self.queues.memory.pool
        line = queues.swapped if self._queue == "swapped" else queues.waiting
        self._notes.holds.pop(self._queue, None)
        if reason != "load" and line:
            self._notes.holds[self._queue] = Hold(
                request=line[0],
                reason=reason,
                by_allocator=by_allocator,
                num_free=pool.num_free,
                floor=self._floor(),
                largest_run=None if self._largest is None else self._largest(),
                num_seats=queues.num_seats,
                num_swapped=len(queues.swapped),
            )


class WatchedPreemption(Preemption):
    """Preempts like the one that it stands in for, and notes who made whom go."""

    def __init__(self, preemption: Preemption, notes: Notes) -> None:
        super().__init__(preemption.queues, preemption.victim, preemption.mode)
        self._notes = notes
        self._asker: Request | None = None

    def obtain(self, request: Request, call: Callable[[], BlockOps | None], step: Step) -> BlockOps | None:
        """Call until there is room, preempting others."""
        self._asker = request
        return super().obtain(request, call, step)

    def preempt(self, request: Request, step: Step) -> None:
        """Take a request's memory away."""
        blocks = {block for sequence in request.sequences for block in sequence.block_table}
        stored = sum(sequence.num_stored for sequence in request.sequences)
        self._notes.taken.append(Taken(request, self._asker or request, len(blocks), stored))
        super().preempt(request, step)


def watch(scheduler: Scheduler) -> Notes:
    """Put watched parts into ``scheduler``, which has not begun, and return where they write."""
    notes = Notes()
    scheduler.admission = WatchedAdmission(scheduler.admission, notes)
    scheduler.growth.preemption = WatchedPreemption(scheduler.growth.preemption, notes)
    return notes
