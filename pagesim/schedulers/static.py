"""Request-level batches: nobody joins, and nobody's memory is given back, before the batch has ended."""

from __future__ import annotations

from typing import Any

from pagesim.account import Held
from pagesim.backend import Step
from pagesim.schedulers.base import Reason, Scheduler
from pagesim.sequence import Request, Sequence


class Static(Scheduler):
    """Admits a batch and runs it until its longest sequence ends (FasterTransformer, a plain generate loop).

    Prompts are padded to the longest of the batch, and a sequence that has ended is computed on as
    padding; its memory stays held, as internal waste, until the batch ends. A token counts as served
    when it has been computed, so latencies are those of a server that streams.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._retired: list[Sequence] = []
        self._batch_reason: Reason = "load"

    def plan(self, step: Step) -> None:
        """Admit a batch if there is none; otherwise decode it."""
        if self.running:
            self._run_batch(step)
        if not (self.running or self.has_something_to_do(step)):
            self._end_batch()
            self._admit_batch(step)
        self.complete(step)

    def commit(self, step: Step, now: int) -> None:
        """Count the tokens; at the end of the batch give all memory back."""
        super().commit(step, now)
        if not self.running:
            self._end_batch()

    def _run_batch(self, step: Step) -> None:
        preempted = self.grow(step)
        self.continue_prompts(step, self.limits.max_num_batched_tokens - len(self.decoding))
        self.hold("load")
        if self.waiting:
            self.hold("memory" if preempted else "sequences" if self._batch_reason == "load" else self._batch_reason)
        step.padding_tokens = len(self._retired)

    def _admit_batch(self, step: Step) -> None:
        self.admit(step, self.limits.max_num_batched_tokens)
        self._batch_reason = self.held
        longest = max((chunk.num_tokens for chunk in step.prefills), default=0)
        step.padding_tokens = sum(longest - chunk.num_tokens for chunk in step.prefills)

    def _end_batch(self) -> None:
        for sequence in self._retired:
            before = self.account.held(sequence.request)
            sequence.retired = False
            self.allocator.free(sequence)
            self.account.change(before, self.account.held(sequence.request))
        self._retired.clear()

    def _release(self, sequence: Sequence, before: Held) -> None:
        sequence.retired = True
        self._retired.append(sequence)
        self.account.change(before, self.account.held(sequence.request))

    def _free(self, request: Request) -> None:
        self._retired = [sequence for sequence in self._retired if sequence.request is not request]
        for sequence in request.sequences:
            sequence.retired = False
        super()._free(request)

    def _num_holders(self) -> int:
        return len(self.running.keys() | {sequence.request for sequence in self._retired})
