"""Room for the next token of every running sequence, in the order of admission."""

from __future__ import annotations

from functools import partial

from pagesim.backend import Step
from pagesim.blocks import BlockOps
from pagesim.schedulers import beams
from pagesim.schedulers.preemption import Preemption
from pagesim.schedulers.queues import Queues
from pagesim.sequence import Request, Sequence, SequenceStatus


class Growth:
    """Grows running requests one after the other; who cannot grow preempts later ones, or has to go.

    Args:
        queues: of the scheduler.
        preemption: makes room.
    """

    def __init__(self, queues: Queues, preemption: Preemption) -> None:
        self.queues = queues
        self.preemption = preemption
        self.has_preempted = False  # in the last call of grow

    def grow(self, step: Step) -> bool:
        """Make room for the next token of every running sequence; return whether a request was preempted."""
        queues, journal = self.queues, self.queues.journal
        ready, before = queues.ready, journal.preemptions_recompute + journal.preemptions_swap
        if ready and queues.memory.is_bulk:
            self._join_where_there_is_room()
        if queues.decoding.promise_due(queues.memory, sum(map(self._at_most, ready)) if ready else 0):
            # There is room for all, whatever the order, so those that are due have got theirs already.
            for request in sorted(ready, key=_order) if ready else ():
                if request.status is SequenceStatus.RUNNING:
                    self._grow_request(request, [], step)
        else:
            self._grow_in_order(step)
        self.has_preempted = before != journal.preemptions_recompute + journal.preemptions_swap
        return self.has_preempted

    def _grow_in_order(self, step: Step) -> None:
        """Serve one request after the other, those that are due and those that are ready alike."""
        queues = self.queues
        work: dict[Request, list[Sequence]] = {request: [] for request in queues.ready}
        for sequence in queues.decoding.due():
            work.setdefault(sequence.request, []).append(sequence)
        for request in sorted(work, key=_order):
            if request.status is SequenceStatus.RUNNING:
                self._grow_request(request, work[request], step)
        queues.decoding.granted()

    def _join_where_there_is_room(self) -> None:
        """Let single sequences decode whose tables have room: a bulk policy would do nothing if it were asked."""
        queues, size = self.queues, self.queues.decoding.block_size
        for request in list(queues.ready):
            if len(request.sequences) > 1:
                continue
            (sequence,) = request.sequences
            stored, table, asked = sequence.num_stored, sequence.block_table, sequence.num_asked
            if stored >= (len(table) * size if asked is None else asked) or sequence.is_decoding:
                continue
            is_whole = request.prompt_tokens <= stored == sequence.num_known - 1
            if is_whole and not queues.memory.pool.is_shared(table[stored // size]):
                del queues.ready[request]
                queues.decoding.join(sequence)

    def _at_most(self, request: Request) -> int:
        """Return how many blocks a request that is ready may need, if its policy takes no more than it has to."""
        pool = self.queues.memory.pool
        return sum(pool.blocks_for(sequence.num_known + 1) + 1 for sequence in request.live_sequences)

    def resumed(self, request: Request, step: Step) -> None:
        """Let a request that has just come back go on, as far as there is room; it preempts nobody."""
        self.queues.ready[request] = None
        self._grow_request(request, [], step, may_preempt=False)

    def _grow_request(self, request: Request, due: list[Sequence], step: Step, *, may_preempt: bool = True) -> None:
        """Perform the forks of a request, then make room for each sequence that needs it."""
        queues = self.queues
        if request in queues.ready:
            del queues.ready[request]
            due += [s for s in request.sequences if not (s.is_decoding or s.has_ended or s in queues.prefilling)]
        due.sort(key=_admission_order)
        if not request.forked:
            due = due[:1]

        def obtain(call: beams.Call) -> BlockOps | None:
            return self.preemption.obtain(request, call, step) if may_preempt else call()

        is_done = True
        if not request.forked and request.sequences[0].num_stored >= request.prompt_tokens:
            is_done = self._fork(request, step, obtain)
            due = request.live_sequences
        elif request.survivors:
            is_done = beams.continue_all(queues, request, step, obtain)
            due = request.live_sequences
        # First room for all of them, then they go on together: a group is resumed whole.
        needs = {sequence: self._need(sequence) for sequence in due}
        is_done = is_done and all(self._make_room(sequence, needs[sequence], step, obtain) for sequence in due)
        if is_done:
            for sequence in due:
                self._go_on(sequence, needs[sequence])
        elif request.status is SequenceStatus.RUNNING:
            queues.ready[request] = None

    def _fork(self, request: Request, step: Step, obtain: beams.Obtain) -> bool:
        """Perform the forks that the prompt's end has recorded."""
        parent = request.sequences[0]  # the longest one: it is there as long as any other
        for child in request.sequences[1:]:
            if child.has_ended or child.num_stored:
                continue
            ops = obtain(partial(self.queues.memory.fork, parent, child))
            if ops is None:
                return False
            self.queues.perform(step, ops)
        request.forked = True
        if parent.has_ended:  # it had its tokens before the request was preempted, and stored the prompt for the others
            self.queues.memory.discard(parent)
        return True

    @staticmethod
    def _need(sequence: Sequence) -> int:
        """Return how many tokens ``sequence`` stores next."""
        return 1 if sequence.is_decoding else sequence.num_prefill - sequence.num_stored

    def _make_room(self, sequence: Sequence, need: int, step: Step, obtain: beams.Obtain) -> bool:
        """Make room for what one sequence stores next."""
        queues, entries = self.queues, sequence.num_blocks
        ops = obtain(partial(queues.memory.allocate, sequence, need))
        if ops is None:
            return False
        if ops:
            queues.perform(step, ops)
        if sequence.is_decoding:
            queues.decoding.num_entries += sequence.num_blocks - entries
        return True

    def _go_on(self, sequence: Sequence, need: int) -> None:
        """Let a sequence that has room decode or prefill."""
        decoding = self.queues.decoding
        if sequence.is_decoding:
            decoding.enter_due(sequence)
        elif need == 1 and sequence.num_stored >= sequence.request.prompt_tokens:
            decoding.join(sequence)
        else:
            self.queues.prefilling[sequence] = None


def _order(request: Request) -> int:
    return request.order


def _admission_order(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.order, sequence.index
