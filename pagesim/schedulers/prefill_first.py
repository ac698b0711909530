"""Prompts before decodes, and never in the same step."""

from __future__ import annotations

from typing import ClassVar

from pagesim.backend import Step
from pagesim.schedulers.base import Scheduler, Walk


class PrefillFirst(Scheduler):
    """Waiting first; a step with any prompt is prompt-only (vLLM 0.1.3 to 0.5)."""

    repeats: ClassVar[bool] = True
    walk: ClassVar[Walk | None] = "prompts_first"

    def plan(self, step: Step) -> None:
        """Admit if nothing is swapped; otherwise, or if nobody could be admitted, decode."""
        admission, budget = self.admission, self.limits.max_num_batched_tokens
        admission.hold("memory" if self.waiting else "load")
        if not self.swapped:
            admission.admit(step, admission.continue_prompts(step, budget))
            if step.prefills:
                self.complete(step, decode=False)
                return
        preempted = self.growth.grow(step)
        if preempted and self.has_something_to_do(step):
            admission.hold("memory")
        elif self.swapped:
            admission.resume(step, budget - len(self.decoding))
        if not self.has_something_to_do(step):  # everybody had to go, or has forked to be computed again
            admission.admit(step, admission.continue_prompts(step, budget))
        self.complete(step)
