"""Where each request is: the state that the parts of a scheduler share.

    waiting -> running -> (finished)
       ^        |  ^
       +--------+  +-- swapped

Sequences of running requests are in one of three places: ``prefilling`` (part of the prompt is not
stored yet, the memory for it is held), ``decoding`` (one token a step), or their request is ``ready``:
it needs its allocator before it can go on.
"""

from __future__ import annotations

from pagesim.account import Account
from pagesim.backend import Step
from pagesim.blocks import BlockOps, Copy
from pagesim.journal import Journal
from pagesim.schedulers.decoding import Decoding
from pagesim.schedulers.memory import Memory
from pagesim.schedulers.waiting import Waiting
from pagesim.sequence import Request, Sequence, SequenceStatus


class Queues:
    """The requests of one scheduler.

    Args:
        memory: of the running requests.
        account, journal: kept up to date.

    Attributes:
        now: tick of the last ``schedule`` or ``commit``.
        swapped: in the order of arrival.
        carried: moves that were granted while a step was tried in vain; they are part of the next one.
        num_seats: sequences that count against ``max_num_seqs``: from admission until each ends.
        num_beamed: running requests that search by beams.
        preempted: requests that were preempted and have not ended, in that order.
    """

    def __init__(self, memory: Memory, account: Account, journal: Journal) -> None:
        self.memory = memory
        self.account = account
        self.journal = journal
        self.now = 0
        self.waiting = Waiting()
        self.running: dict[Request, None] = {}
        self.swapped: list[Request] = []
        self.ready: dict[Request, None] = {}
        self.prefilling: dict[Sequence, None] = {}
        self.decoding = Decoding(memory.pool, bulk=memory.is_bulk, grows_by_block=memory.grows_by_block)
        self.carried = BlockOps()
        self.num_seats = 0
        self.num_beamed = 0
        self.preempted: dict[Request, None] = {}
        self._order = 0

    @property
    def num_holders(self) -> int:
        """Requests that hold device memory."""
        return len(self.running) + self.memory.num_retired()

    def enter_running(self, request: Request) -> None:
        """Put a request behind all that run."""
        self._order += 1
        request.order = self._order
        request.status = SequenceStatus.RUNNING
        if request.admitted_at is None:
            request.admitted_at = self.now
        self.running[request] = None
        self.num_beamed += request.beams is not None

    def leave_running(self, request: Request) -> None:
        """Take a request and its sequences out of the batch. Its memory is the caller's business."""
        del self.running[request]
        self.num_beamed -= request.beams is not None
        self.ready.pop(request, None)
        for sequence in request.sequences:
            if sequence.is_decoding:
                self.decoding.leave(sequence)
            self.prefilling.pop(sequence, None)

    def enter_swapped(self, request: Request) -> None:
        """Put a request among those that wait on the host."""
        request.status = SequenceStatus.SWAPPED
        self.swapped.append(request)
        self.swapped.sort(key=lambda request: (request.arrival, request.id))

    def finish(self, request: Request) -> None:
        """Take a request out that has all of its tokens."""
        self.leave_running(request)
        self.preempted.pop(request, None)
        request.status = SequenceStatus.FINISHED
        request.finished_at = self.now
        self.journal.finished += 1
        self.journal.ended(request)

    def refuse(self, request: Request, reason: str) -> None:
        """End a request that is in no queue any more, and say why."""
        self.preempted.pop(request, None)
        request.status = SequenceStatus.REFUSED
        request.reason = reason
        self.journal.refused += 1
        self.journal.ended(request)

    def perform(self, step: Step, ops: BlockOps) -> None:
        """Add a plan to the step's."""
        for op in ops:
            step.ops.append(op)
            if isinstance(op, Copy):
                self.journal.copied_blocks += op.num_blocks
