"""Prompts and decodes in one batch, prompts whole."""

from __future__ import annotations

from typing import ClassVar

from pagesim.backend import Step
from pagesim.schedulers.base import Scheduler, Walk


class Mixed(Scheduler):
    """Running, then swapped, then waiting; whole prompts beside decodes (the PagedAttention paper's engine)."""

    repeats: ClassVar[bool] = True
    walk: ClassVar[Walk | None] = "decodes_first"

    def plan(self, step: Step) -> None:
        """Walk the queues once."""
        admission = self.admission
        preempted = self.growth.grow(step)
        budget = self.limits.max_num_batched_tokens - len(self.decoding)
        budget = admission.continue_prompts(step, budget)
        if preempted and self.has_something_to_do(step):
            admission.hold("memory")
        else:
            budget = admission.resume(step, budget)
            admission.admit(step, budget)
        self.complete(step)
