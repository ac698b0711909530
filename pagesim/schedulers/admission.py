"""Letting requests in: those that wait, and those that come back from the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pagesim.backend import Chunk, Step
from pagesim.blocks import BlockOps
from pagesim.schedulers.growth import Growth
from pagesim.schedulers.never import Never
from pagesim.schedulers.queues import Queues
from pagesim.sequence import Request, Sequence

Reason = Literal["load", "memory", "sequences", "tokens"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a batch."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int


class Admission:
    """First come, first served, until something stops it.

    Args:
        queues, growth: of the scheduler.
        limits: of a batch.
        rule: ``after_swapped``: nobody is admitted while a request is swapped; ``after_preempted``: nor
            while one that was preempted has not ended.
        chunks_prompts: whether a prompt may be prefilled in parts.
        never: tells "not now" from "never".

    Attributes:
        held: why the last call admitted no more.
        by_allocator: whether it was the allocator or the watermark that said no.
        refusal: what the allocator refused last: the request, the pool's generation and the tokens matched then.
    """

    def __init__(
        self, queues: Queues, growth: Growth, limits: Limits, rule: str, never: Never, *, chunks_prompts: bool
    ) -> None:
        self.queues = queues
        self.growth = growth
        self.limits = limits
        self.rule = rule
        self.never = never
        self.chunks_prompts = chunks_prompts
        self.held: Reason = "load"
        self.by_allocator = False
        self.refusal: tuple[Request, int, int] | None = None

    def hold(self, reason: Reason, *, by_allocator: bool = False) -> None:
        """Note why nothing more is admitted."""
        self.held = reason
        self.by_allocator = by_allocator

    def continue_prompts(self, step: Step, budget: int) -> int:
        """Add chunks of prompts that are partly stored; return the budget that is left."""
        for sequence in self.queues.prefilling:
            need = sequence.num_prefill - sequence.num_stored
            if budget < 1 or (need > budget and not self.chunks_prompts):
                break
            budget -= _add_chunk(step, sequence, min(need, budget))
        return budget

    def resume(self, step: Step, budget: int) -> int:
        """Bring swapped requests back, the earliest arrival first; return the budget that is left."""
        queues = self.queues
        while queues.swapped:
            request = queues.swapped[0]
            if request.num_live > budget:
                self.hold("tokens")
                break
            ops = None if self._waits_for_others(request) else queues.memory.swap_in(request, above=self._floor())
            if ops is None:
                self.hold("memory")
                break
            queues.journal.swapped_in_blocks += sum(op.num_blocks for op in ops)
            queues.perform(step, ops)
            del queues.swapped[0]
            queues.enter_running(request)
            self.growth.resumed(request, step)
            budget -= request.num_live
        return budget

    def admit(self, step: Step, budget: int) -> int:
        """Admit waiting requests in order until something stops it; return the budget that is left."""
        queues = self.queues
        self.hold("load")
        while queues.waiting:
            request = queues.waiting[0]
            if queues.swapped or self._waits_for_preempted(request):
                self.hold("memory")
                break
            if self._waits_for_others(request):
                self.hold("memory", by_allocator=True)
                break
            if (misfit := self._misfit(request)) is not None:
                queues.refuse(queues.waiting.popleft(), misfit)
                continue
            if queues.num_seats + request.num_live > self.limits.max_num_seqs:
                self.hold("sequences")
                break
            sequences = request.live_sequences if request.forked else request.sequences[:1]
            matched = queues.memory.match(sequences)
            need = sum(sequence.num_prefill for sequence in sequences)
            if budget < 1 or (need - sum(matched) > budget and not self.chunks_prompts):
                self.hold("tokens")
                break
            ops = self._allocate(request, sequences, sum(matched))
            if ops is not None:
                queues.waiting.popleft()
                queues.perform(step, ops)
                budget = self._start(request, sequences, matched, step, budget)
            elif not request.fits_alone and self.never(sequences):
                queues.refuse(queues.waiting.popleft(), f"never fits: an empty pool does not admit {need} tokens")
            elif not queues.num_holders and queues.memory.pool.num_held:
                queues.refuse(
                    queues.waiting.popleft(), f"never fits: {need} tokens beside the prefixes that are pinned"
                )
            else:
                request.fits_alone = True
                self.hold("memory", by_allocator=True)
                break
        return budget

    def _start(self, request: Request, sequences: list[Sequence], matched: list[int], step: Step, budget: int) -> int:
        """Let an admitted request run: its first chunks, after the tokens that are there already."""
        queues = self.queues
        queues.enter_running(request)
        queues.num_seats += request.num_live
        queues.journal.matched_tokens += sum(matched)
        for sequence, num_matched in zip(sequences, matched, strict=True):
            queues.prefilling[sequence] = None
            sequence.num_stored = num_matched
            if budget > 0:
                budget -= _add_chunk(step, sequence, min(sequence.num_prefill - num_matched, budget))
        return budget

    def _allocate(self, request: Request, sequences: list[Sequence], num_matched: int) -> BlockOps | None:
        """Ask for whole prompts, above the watermark, unless the answer is known."""
        queues, memory = self.queues, self.queues.memory
        question = (request, memory.pool.generation, num_matched)  # a prefix that has been written since needs less
        if memory.has_stable_refusal and self.refusal == question:
            return None
        if request.num_preemptions_recompute:
            queues.journal.lookups_preempted += 1
        elif request.fits_alone:
            queues.journal.lookups_retry += 1
        else:
            queues.journal.lookups_first += 1
        ops = memory.admit(request, sequences, above=self._floor())
        # after the call: a group that was refused in part has given back what it got
        self.refusal = (request, memory.pool.generation, num_matched) if ops is None else None
        return ops

    def _floor(self) -> int:
        """Return the blocks that have to stay free: the watermark, unless nobody else holds memory."""
        return self.queues.memory.pool.watermark if self.queues.num_holders else 0

    def _waits_for_preempted(self, request: Request) -> bool:
        preempted = self.queues.preempted
        return self.rule == "after_preempted" and bool(preempted) and request not in preempted

    def _waits_for_others(self, request: Request) -> bool:
        """Whether ``request`` had to go of its own accord and nobody has given memory back since."""
        queues = self.queues
        return request.waits_since == queues.memory.pool.generation and queues.num_holders > 0

    def _misfit(self, request: Request) -> str | None:
        """Return why the limits can never let ``request`` in, if that is so."""
        limits = self.limits
        if request.num_live > limits.max_num_seqs:
            return f"needs {request.num_live} seats of max_num_seqs {limits.max_num_seqs}"
        if not self.chunks_prompts and request.forked and request.num_live > 1:
            need = request.num_live * (request.prompt_tokens + request.output_tokens)
            if need > limits.max_num_batched_tokens:
                return f"needs steps of up to {need} tokens of max_num_batched_tokens {limits.max_num_batched_tokens}"
        return None


def _add_chunk(step: Step, sequence: Sequence, num_tokens: int) -> int:
    stored = sequence.num_stored
    step.prefills.append(Chunk(sequence, num_tokens, sequence.num_lost_among(stored, num_tokens)))
    return num_tokens
