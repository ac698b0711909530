"""Taking memory away from running requests, so that others can grow."""

from __future__ import annotations

from collections.abc import Callable

from pagesim.backend import Step
from pagesim.blocks import BlockOps
from pagesim.schedulers import beams
from pagesim.schedulers.queues import Queues
from pagesim.schedulers.victims import Victim
from pagesim.sequence import Request


class Preemption:
    """Chooses victims and takes them out, whole, to be computed again or to wait on the host.

    Args:
        queues: of the scheduler.
        victim: chooses among those that have not been granted anything in the step.
        mode: ``recompute``, ``swap``, or ``by_sequences``: swap groups, recompute single sequences.
    """

    def __init__(self, queues: Queues, victim: Victim, mode: str) -> None:
        self.queues = queues
        self.victim = victim
        self.mode = mode

    def obtain(self, request: Request, call: Callable[[], BlockOps | None], step: Step) -> BlockOps | None:
        """Call until there is room, preempting others; None when ``request`` itself had to go."""
        queues = self.queues
        while (ops := call()) is None:
            # Requests before it in the order of admission have been granted their token already.
            candidates = [other for other in queues.running if other.order > request.order]
            if candidates:
                self.preempt(self.victim.choose(candidates), step)
            elif queues.num_holders == 1:
                queues.leave_running(request)
                queues.memory.free(request)
                queues.num_seats -= request.num_live
                queues.refuse(request, "outgrew the pool: alone in it, it cannot grow")
                return None
            else:
                self.preempt(request, step)
                if len(request.sequences) > 1:
                    # A group that fits by its prompt and not by its sequences would come back, compute its
                    # prompt and have to go again in every step, until somebody else gives memory back.
                    request.waits_since = queues.memory.pool.generation
                return None
        return ops

    def preempt(self, request: Request, step: Step) -> None:
        """Take a request's memory away; it comes back whole."""
        queues = self.queues
        queues.leave_running(request)
        queues.preempted[request] = None
        if self._swaps(request) and beams.continue_all(queues, request, step):
            ops = queues.memory.swap_out(request)
            if ops is not None:
                queues.journal.preemptions_swap += 1
                queues.journal.swapped_out_blocks += sum(op.num_blocks for op in ops)
                request.num_preemptions_swap += 1
                queues.perform(step, ops)
                queues.enter_swapped(request)
                return
        self._recompute(request)

    def _recompute(self, request: Request) -> None:
        """Free everything; it waits in front, and its prompt and outputs are prefilled again."""
        queues = self.queues
        beams.continue_in_name(queues, request)
        for sequence in request.sequences:
            sequence.num_lost = max(sequence.num_lost, sequence.num_stored)
        queues.memory.free(request)
        for sequence in request.sequences:
            sequence.num_stored = 0
        request.forked = len(request.sequences) == 1 or not queues.memory.can_fork
        queues.num_seats -= request.num_live
        queues.journal.preemptions_recompute += 1
        request.num_preemptions_recompute += 1
        request.fits_alone = False  # it needs more now than when it was first admitted
        request.requeue()
        queues.waiting.appendleft(request)

    def _swaps(self, request: Request) -> bool:
        if self.mode == "recompute" or not self.queues.memory.can_swap:
            return False
        if self.mode == "by_sequences" and len(request.sequences) == 1:
            return False
        if not request.forked and request.sequences[0].has_ended:
            return False  # the prompt is with a sequence that does not come along
        return any(sequence.num_stored for sequence in request.sequences)
