"""Request-level batches: nobody joins, and nobody's memory is given back, before the batch has ended."""

from __future__ import annotations

from typing import Any, ClassVar

from pagesim.backend import Step
from pagesim.blocks import BlockOps
from pagesim.schedulers.base import Reason, Scheduler
from pagesim.schedulers.memory import Memory
from pagesim.sequence import Request, Sequence


class RetiringMemory(Memory):
    """Keeps the memory of sequences that have ended until their batch has."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.retired: list[Sequence] = []

    def num_retired(self) -> int:
        """Return how many requests have ended and hold memory."""
        return len({sequence.request for sequence in self.retired if not sequence.request.num_live})

    def release(self, sequence: Sequence) -> None:
        """Keep it, as internal waste."""
        before = self.account.held(sequence.request)
        sequence.retired = True
        self.retired.append(sequence)
        self._count_in_prefix(sequence, 1)
        self.account.change(before, self.account.held(sequence.request))

    def swap_out(self, request: Request) -> BlockOps | None:
        """Swap nobody out whose sequences have ended in part: what they hold stays."""
        return None if any(sequence.retired for sequence in request.sequences) else super().swap_out(request)

    def free(self, request: Request) -> None:
        """Give all memory of a request back, of those sequences too that have ended."""
        self.retired = [sequence for sequence in self.retired if sequence.request is not request]
        before = self.account.held(request)
        for sequence in request.sequences:
            if sequence.retired:
                self._count_in_prefix(sequence, -1)
                sequence.retired = False
        self.account.change(before, self.account.held(request))
        super().free(request)

    def free_retired(self) -> None:
        """Give the memory of the batch back."""
        for sequence in self.retired:
            before = self.account.held(sequence.request)
            self._count_in_prefix(sequence, -1)
            self.allocator.free(sequence)
            sequence.retired = False
            self.account.change(before, self.account.held(sequence.request))
        self.retired.clear()

    def _count_in_prefix(self, sequence: Sequence, number: int) -> None:
        prefixes = self.account.prefixes
        entry = None if prefixes is None else prefixes.entry(sequence)
        if entry is not None and entry.blocks[0] in sequence.block_table[:1]:
            entry.num_retired += number


class Static(Scheduler):
    """Admits a batch and runs it until its longest sequence ends (FasterTransformer, a plain generate loop).

    Prompts are padded to the longest of the batch, and a sequence that has ended is computed on as
    padding; its memory stays held, as internal waste, until the batch ends. A token counts as served
    when it has been computed, so latencies are those of a server that streams.
    """

    repeats: ClassVar[bool] = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._batch_reason: Reason = "load"

    def make_memory(self) -> RetiringMemory:
        """Return a memory that outlasts its sequences."""
        self.memory = RetiringMemory(self.allocator, self.account)
        return self.memory

    def plan(self, step: Step) -> None:
        """Admit a batch if there is none; otherwise decode it."""
        if self.running:
            self._run_batch(step)
        if not (self.running or self.has_something_to_do(step)):
            self.memory.free_retired()
            self._admit_batch(step)
        self.complete(step)

    def commit(self, step: Step, now: int) -> None:
        """Count the tokens; at the end of the batch give all memory back."""
        super().commit(step, now)
        if not self.running:
            self.memory.free_retired()

    def _run_batch(self, step: Step) -> None:
        admission = self.admission
        preempted = self.growth.grow(step)
        admission.continue_prompts(step, self.limits.max_num_batched_tokens - len(self.decoding))
        admission.hold("load")
        if self.waiting:
            held = "sequences" if self._batch_reason == "load" else self._batch_reason
            admission.hold("memory" if preempted else held)
        step.padding_tokens = len(self.memory.retired)

    def _admit_batch(self, step: Step) -> None:
        budget = self.admission.resume(step, self.limits.max_num_batched_tokens)
        self.admission.admit(step, budget)
        self._batch_reason = self.held
        longest = max((chunk.num_tokens for chunk in step.prefills), default=0)
        step.padding_tokens = sum(longest - chunk.num_tokens for chunk in step.prefills)
