"""What every scheduler does: queues, growth, preemption, admission, commit.

A policy is the order in which ``schedule`` walks the queues; see the other files of this folder.

    add -> waiting --admit--> running --commit--> finished
              ^                 |  ^
              +---- preempt ----+  +--resume-- swapped

Sequences of running requests are in one of three places: ``prefilling`` (part of the prompt is not
stored yet, the memory for it is held), ``decoding`` (one token a step), or on the list ``ready`` of
requests that need their allocator before they can go on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from pagesim.account import Account, Held
from pagesim.allocators.base import Allocator, Bulk, Forks, Prefixes, Swaps
from pagesim.backend import Chunk, Step
from pagesim.blocks import BlockOps, Copy
from pagesim.errors import InvariantError
from pagesim.journal import Journal
from pagesim.schedulers.decoding import Decoding
from pagesim.schedulers.never import Never
from pagesim.schedulers.victims import Victim
from pagesim.sequence import Branch, Request, Sequence, SequenceStatus

Reason = Literal["load", "memory", "sequences", "tokens"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a batch."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int


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
    """

    chunks_prompts: ClassVar[bool] = False

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
        self.victim = victim
        self.preemption = preemption
        self.admission = admission
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}
        self.swapped: list[Request] = []  # by arrival
        self.ready: dict[Request, None] = {}
        self.prefilling: dict[Sequence, None] = {}
        self.decoding = Decoding(self.pool.block_size, bulk=getattr(allocator, "bulk", False))
        self.num_seats = 0
        self.num_beamed = 0  # running requests that search by beams
        self.held: Reason = "load"  # why the last schedule() admitted no more
        self.refused_by_allocator = False  # and whether it was the allocator or the watermark that said no
        self._never = Never(twin)
        self.now = 0
        self._order = 0
        self._preempted: dict[Request, None] = {}  # not yet completed; only kept for after_preempted
        self._stable_refusal: bool = getattr(allocator, "stable_refusal", False)
        self._bulk = allocator if isinstance(allocator, Bulk) and getattr(allocator, "bulk", False) else None
        self._refusal: tuple[Request, int] | None = None

    # What the engine calls

    def add(self, request: Request) -> None:
        """Queue a request that has arrived."""
        # Without forks there is nothing to wait for: each sequence prefills its own prompt.
        request.forked = request.forked or not isinstance(self.allocator, Forks)
        self.waiting.append(request)

    def schedule(self, now: int) -> Step:
        """Return the next step. Its memory is held from here on, its tokens count from ``commit`` on."""
        self.now = now
        step = Step()
        self.plan(step)
        return step

    @abstractmethod
    def plan(self, step: Step) -> None:
        """Fill ``step``: grow, resume and admit in the order of the policy, then ``complete`` it."""

    def commit(self, step: Step, now: int) -> None:
        """Count the tokens of a step that ended at ``now``; free the sequences that have ended."""
        self.journal.iterations += 1
        for chunk in step.prefills:
            self._store(chunk, now)
        if step.num_decodes:
            self.account.live += step.num_decodes
            self.journal.output_tokens += step.num_decodes
            for sequence in self.decoding.tick(now, self.journal.gaps):
                self.decoding.leave(sequence)
                sequence.last_token_at = now
                self._end(sequence, now)
        if self.num_beamed:
            self._select_beams()

    @property
    def has_work(self) -> bool:
        """Whether any request has not ended."""
        return bool(self.waiting or self.running or self.swapped)

    # What the policies are made of

    def grow(self, step: Step) -> bool:
        """Make room for the next token of every running sequence; return whether a request was preempted."""
        entries = self.decoding.due()
        if not entries and not self.ready:
            return False
        if not self.ready and self._grow_all(entries):
            return False
        work: dict[Request, list[Sequence]] = {request: [] for request in self.ready}
        for sequence in entries:
            work.setdefault(sequence.request, []).append(sequence)
        before = self.journal.preemptions_recompute + self.journal.preemptions_swap
        for request in sorted(work, key=lambda request: request.order):
            if request.status is SequenceStatus.RUNNING:
                self._grant(request, work[request], step)
        return before != self.journal.preemptions_recompute + self.journal.preemptions_swap

    def continue_prompts(self, step: Step, budget: int) -> int:
        """Add chunks of prompts that are partly stored; return the budget that is left."""
        for sequence in self.prefilling:
            need = self._target(sequence) - sequence.num_stored
            if budget < 1 or (need > budget and not self.chunks_prompts):
                break
            budget -= self._add_chunk(step, sequence, min(need, budget))
        return budget

    def resume(self, step: Step, budget: int) -> int:
        """Bring swapped requests back, the earliest arrival first; return the budget that is left."""
        while self.swapped:
            request = self.swapped[0]
            if request.num_live > budget:
                self.hold("tokens")
                break
            sequences = request.live_sequences
            ops = self._above_floor(request, sequences, self._swaps.swap_in)
            if ops is None:
                self.hold("memory")
                break
            self.journal.swapped_in_blocks += sum(op.num_blocks for op in ops)
            self._perform(step, ops)
            del self.swapped[0]
            self._enter_running(request)
            self.ready[request] = None
            self._grant(request, [], step, may_preempt=False)
            budget -= request.num_live
        return budget

    def admit(self, step: Step, budget: int) -> int:
        """Admit waiting requests in order until something stops it; return the budget that is left.

        ``held`` says afterwards what stopped it.
        """
        self.hold("load")
        while self.waiting:
            request = self.waiting[0]
            if self.swapped or (self.admission == "after_preempted" and self._waits_for_preempted(request)):
                self.hold("memory")
                break
            if (misfit := self._misfit(request)) is not None:
                self._refuse(self.waiting.popleft(), misfit)
                continue
            if self.num_seats + request.num_live > self.limits.max_num_seqs:
                self.hold("sequences")
                break
            sequences = request.sequences[:1] if not request.forked else request.live_sequences
            matched = self._match(sequences)
            need = sum(map(self._target, sequences)) - sum(matched)
            if budget < 1 or (need > budget and not self.chunks_prompts):
                self.hold("tokens")
                break
            ops = self._first_allocation(request, sequences)
            if ops is None:
                if not request.fits_alone and self._never(request, need):
                    self._refuse(self.waiting.popleft(), f"never fits: an empty pool does not admit {need} tokens")
                    continue
                request.fits_alone = True
                self.hold("memory", by_allocator=True)
                break
            self.waiting.popleft()
            self._perform(step, ops)
            self._enter_running(request)
            self.num_seats += request.num_live
            for sequence, num_matched in zip(sequences, matched, strict=True):
                self.prefilling[sequence] = None
                sequence.num_stored = num_matched
                self.journal.matched_tokens += num_matched
                if budget > 0:
                    budget -= self._add_chunk(step, sequence, min(self._target(sequence) - num_matched, budget))
        return budget

    def has_something_to_do(self, step: Step) -> bool:
        """Whether ``step`` will not be empty, whatever is admitted."""
        return bool(step.ops or step.prefills or self.decoding.sequences)

    def hold(self, reason: Reason, *, by_allocator: bool = False) -> None:
        """Note why nothing more is admitted."""
        self.held = reason
        self.refused_by_allocator = by_allocator

    def complete(self, step: Step, *, decode: bool = True) -> None:
        """Add the decodes and the counts."""
        if decode and self.decoding.sequences:
            step.decodes = self.decoding.sequences.keys()
            step.num_decodes = len(self.decoding.sequences)
            step.context_tokens = self.decoding.context_tokens
            step.table_entries = self.decoding.num_entries
        for chunk in step.prefills:
            step.table_entries += len(chunk.sequence.block_table)

    # Growth and preemption

    def _grow_all(self, sequences: list[Sequence]) -> bool:
        """Give all of ``sequences`` a block at once, if the allocator can and there is room."""
        if self._bulk is None:
            return False
        sequences.sort(key=_admission_order)
        if not self._bulk.extend(sequences):
            return False
        self.account.extended(sequences)
        self.decoding.extended(sequences)
        return True

    def _grant(self, request: Request, due: list[Sequence], step: Step, *, may_preempt: bool = True) -> None:
        """Give each sequence of ``request`` room for what it stores next, preempting others if need be."""
        if request in self.ready:
            del self.ready[request]
            due = [s for s in request.sequences if not (s.is_decoding or s.has_ended or s in self.prefilling)]
            if not request.forked:
                due = due[:1]
        if not request.forked and request.sequences[0].num_stored >= request.prompt_tokens:
            due = self._fork(request, step, may_preempt=may_preempt)
        elif request.survivors:
            due = self._continue_beams(request, step, may_preempt=may_preempt)
        for sequence in due:
            need = 1 if sequence.is_decoding else self._target(sequence) - sequence.num_stored
            ops = self._obtain(request, partial(self._allocate, sequence, need), step, may_preempt)
            if ops is None:
                if request.status is SequenceStatus.RUNNING:
                    self.ready[request] = None
                return
            if ops:
                self._perform(step, ops)
            if sequence.is_decoding:
                self.decoding.enter_due(sequence)
            elif need == 1 and sequence.num_stored >= request.prompt_tokens:
                self.decoding.join(sequence)
            else:
                self.prefilling[sequence] = None

    def _fork(self, request: Request, step: Step, *, may_preempt: bool) -> list[Sequence]:
        """Perform the forks that the prompt's end has recorded; return the sequences that grow next."""
        parent = request.sequences[0]  # the longest one: it is there as long as any other
        for child in request.sequences[1:]:
            if child.has_ended or child.num_stored:
                continue
            ops = self._obtain(request, partial(self._perform_fork, parent, child), step, may_preempt)
            if ops is None:
                if request.status is SequenceStatus.RUNNING:
                    self.ready[request] = None
                return []
            self._perform(step, ops)
        request.forked = True
        return request.live_sequences

    def _continue_beams(self, request: Request, step: Step, *, may_preempt: bool) -> list[Sequence]:
        """Replace beams that have died: first fork what continues, then free what does not."""
        while request.survivors:
            replaced, continued = request.survivors[0]
            parent, dead = request.sequences[continued], request.sequences[replaced]
            child = _continuation(parent, dead)
            request.sequences.append(child)  # while both exist, all of them hold memory
            ops = self._obtain(request, partial(self._perform_fork, parent, child), step, may_preempt)
            request.sequences.remove(child)
            if ops is None:
                if request.status is SequenceStatus.RUNNING:
                    self.ready[request] = None
                return []
            self._perform(step, ops)
            request.survivors.pop(0)
            self._replace_beam(request, replaced, child)
        return request.live_sequences

    def _replace_beam(self, request: Request, index: int, child: Sequence) -> None:
        """Put ``child`` in the place of a beam, which is freed."""
        dead = request.sequences[index]
        if dead.is_decoding:
            self.decoding.leave(dead)
        child.last_token_at = dead.last_token_at
        request.sequences.append(child)
        before = self.account.held(request)
        self.prefilling.pop(dead, None)
        if dead.block_table:
            self.allocator.free(dead)
        request.sequences.remove(child)
        request.sequences[index] = child
        self.account.change(before, self.account.held(request))

    def _settle_beams(self, request: Request) -> None:
        """Replace beams in name, before the request's memory is taken away."""
        for replaced, continued in request.survivors:
            child = _continuation(request.sequences[continued], request.sequences[replaced])
            self._replace_beam(request, replaced, child)
        request.survivors.clear()

    def _obtain(
        self, request: Request, call: Callable[[], BlockOps | None], step: Step, may_preempt: bool
    ) -> BlockOps | None:
        """Call until there is room; None when ``request`` itself had to go (or must not preempt)."""
        while (ops := call()) is None:
            if not may_preempt:
                return None
            # Requests before it in the order of admission have been granted their token already.
            candidates = [other for other in self.running if other.order > request.order]
            if candidates:
                self._preempt(self.victim.choose(candidates), step)
            elif self._num_holders() == 1:
                self._leave_running(request)
                self._free(request)
                self._refuse(request, "outgrew the pool: alone in it, it cannot grow")
                return None
            else:
                self._preempt(request, step)
                return None
        return ops

    def _preempt(self, request: Request, step: Step) -> None:
        """Take a request's memory away; it comes back whole."""
        self._leave_running(request)
        self._preempted[request] = None
        if self._swaps_out(request) and self._forked_for_swap(request, step):
            sequences = request.live_sequences
            before = self.account.held(request)
            ops = self._swaps.swap_out(sequences)
            if ops is not None:
                self.account.change(before, self.account.held(request))
                self.journal.preemptions_swap += 1
                self.journal.swapped_out_blocks += sum(op.num_blocks for op in ops)
                request.num_preemptions_swap += 1
                self._perform(step, ops)
                request.status = SequenceStatus.SWAPPED
                self.swapped.append(request)
                self.swapped.sort(key=lambda request: (request.arrival, request.id))
                return
        self._settle_beams(request)
        for sequence in request.sequences:
            sequence.num_lost = max(sequence.num_lost, sequence.num_stored)
        self._free(request)
        for sequence in request.sequences:
            sequence.num_stored = 0
        request.forked = len(request.sequences) == 1 or not isinstance(self.allocator, Forks)
        self.num_seats -= request.num_live
        self.journal.preemptions_recompute += 1
        request.num_preemptions_recompute += 1
        request.fits_alone = False  # it needs more now than when it was first admitted
        request.status = SequenceStatus.WAITING
        self.waiting.appendleft(request)

    def _swaps_out(self, request: Request) -> bool:
        if self.preemption == "recompute" or self.pool.host is None or not isinstance(self.allocator, Swaps):
            return False
        if self.preemption == "by_sequences" and len(request.sequences) == 1:
            return False
        return any(sequence.num_stored for sequence in request.sequences)

    def _forked_for_swap(self, request: Request, step: Step) -> bool:
        """Perform the beam replacements that are due, so that what is swapped out is what goes on."""
        while request.survivors:
            replaced, continued = request.survivors[0]
            parent, dead = request.sequences[continued], request.sequences[replaced]
            child = _continuation(parent, dead)
            request.sequences.append(child)
            ops = self._perform_fork(parent, child)
            request.sequences.remove(child)
            if ops is None:
                return False
            self._perform(step, ops)
            request.survivors.pop(0)
            self._replace_beam(request, replaced, child)
        return True

    @property
    def _swaps(self) -> Swaps:
        if not isinstance(self.allocator, Swaps):
            raise InvariantError("a request is swapped though the allocator cannot swap")
        return self.allocator

    def _perform_fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Let ``child`` continue from what ``parent`` has stored."""
        if not isinstance(self.allocator, Forks):
            raise InvariantError("a sequence is forked though the allocator cannot fork")
        request = parent.request
        before = self.account.held(request)
        ops = self.allocator.fork(parent, child)
        if ops is not None:
            child.num_stored = parent.num_stored
            if child.branch is None:
                child.branch = Branch(parent.branch, parent.num_stored, child.index)
            self.account.change(before, self.account.held(request))
        return ops

    def _num_holders(self) -> int:
        """Return how many requests hold device memory."""
        return len(self.running)

    # Admission

    def _misfit(self, request: Request) -> str | None:
        """Return why the limits can never let ``request`` in, if that is so."""
        limits = self.limits
        if request.num_live > limits.max_num_seqs:
            return f"needs {request.num_live} seats of max_num_seqs {limits.max_num_seqs}"
        if not self.chunks_prompts:
            prompts = 1 if not request.forked else request.num_live
            need = prompts * (request.prompt_tokens + request.output_tokens)
            if prompts > 1 and need > limits.max_num_batched_tokens:
                return f"needs steps of up to {need} tokens of max_num_batched_tokens {limits.max_num_batched_tokens}"
        return None

    def _match(self, sequences: list[Sequence]) -> list[int]:
        """Return how many tokens of each sequence are there already, in blocks that it can share."""
        if not isinstance(self.allocator, Prefixes) or sequences[0].request.prefix_group is None:
            return [0] * len(sequences)
        return [self.allocator.match(sequence) for sequence in sequences]

    def _first_allocation(self, request: Request, sequences: list[Sequence]) -> BlockOps | None:
        """Ask for whole prompts, above the watermark."""
        if self._stable_refusal and self._refusal == (request, self.pool.generation):
            return None
        journal = self.journal
        if request.num_preemptions_recompute:
            journal.lookups_preempted += 1
        elif request.fits_alone:
            journal.lookups_retry += 1
        else:
            journal.lookups_first += 1
        ops = self._above_floor(request, sequences, self._allocate_prompts)
        self._refusal = (request, self.pool.generation) if ops is None else None
        return ops

    def _allocate_prompts(self, sequences: list[Sequence]) -> BlockOps | None:
        """Allocate for each of ``sequences``, or for none."""
        ops = BlockOps()
        for index, sequence in enumerate(sequences):
            need = self._target(sequence)
            more = self.allocator.allocate(sequence, need)
            if more is None:
                for granted in sequences[:index]:
                    self.allocator.free(granted)
                return None
            self._check_coverage(sequence, need)
            ops += more
        return ops

    def _above_floor(
        self, request: Request, sequences: list[Sequence], call: Callable[[list[Sequence]], BlockOps | None]
    ) -> BlockOps | None:
        """Call an allocator with the watermark in force, unless nobody else holds memory."""
        self.pool.floor = self.pool.watermark if self._num_holders() else 0
        before = self.account.held(request)
        try:
            ops = call(sequences)
        finally:
            self.pool.floor = 0
        if ops is not None:
            self.account.change(before, self.account.held(request))
        return ops

    def _waits_for_preempted(self, request: Request) -> bool:
        return any(other is not request for other in self._preempted) and request not in self._preempted

    def _enter_running(self, request: Request) -> None:
        self._order += 1
        request.order = self._order
        request.status = SequenceStatus.RUNNING
        if request.admitted_at is None:
            request.admitted_at = self.now
        self.running[request] = None
        self.num_beamed += request.beams is not None

    def _leave_running(self, request: Request) -> None:
        del self.running[request]
        self.num_beamed -= request.beams is not None
        self.ready.pop(request, None)
        for sequence in request.sequences:
            if sequence.is_decoding:
                self.decoding.leave(sequence)
            self.prefilling.pop(sequence, None)

    # Bookkeeping

    def _allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Ask for ``num_tokens`` more and keep the account."""
        account, request = self.account, sequence.request
        before, entries = account.held(request), len(sequence.block_table)
        ops = self.allocator.allocate(sequence, num_tokens)
        if ops is not None:
            account.change(before, account.held(request))
            if sequence.is_decoding:
                self.decoding.num_entries += len(sequence.block_table) - entries
            self._check_coverage(sequence, num_tokens)
        return ops

    def _check_coverage(self, sequence: Sequence, num_tokens: int) -> None:
        capacity, needed = len(sequence.block_table) * self.pool.block_size, sequence.num_stored + num_tokens
        if capacity < needed:
            raise InvariantError(
                f"INV-2: {type(self.allocator).__name__}.allocate(sequence, {num_tokens}) answered that there is room, "
                f"but the block table covers {capacity} of {needed} tokens"
            )

    def _target(self, sequence: Sequence) -> int:
        """Tokens that a prefill of ``sequence`` has to store before it decodes or forks."""
        return sequence.num_known if sequence.request.forked else sequence.request.prompt_tokens

    def _add_chunk(self, step: Step, sequence: Sequence, num_tokens: int) -> int:
        stored = sequence.num_stored
        num_recomputed = max(min(stored + num_tokens, sequence.num_lost) - stored, 0)
        step.prefills.append(Chunk(sequence, num_tokens, num_recomputed))
        return num_tokens

    def _perform(self, step: Step, ops: BlockOps) -> None:
        for op in ops:
            step.ops.append(op)
            if isinstance(op, Copy):
                self.journal.copied_blocks += op.num_blocks

    def _store(self, chunk: Chunk, now: int) -> None:
        """Count a chunk's tokens; at the end of a prompt there is a first token for every sequence."""
        sequence, request = chunk.sequence, chunk.sequence.request
        sequence.num_stored += chunk.num_tokens
        self.account.live += chunk.num_tokens
        self.journal.recomputed_tokens += chunk.num_recomputed
        request.num_recomputed += chunk.num_recomputed
        if sequence.num_stored < self._target(sequence):
            return
        del self.prefilling[sequence]
        if request.forked and request.beams is not None:
            # Beams go on in step: those that are computed again wait for the last of them.
            if any(each in self.prefilling for each in request.sequences):
                return
            self.ready[request] = None
            for each in list(request.sequences):
                self._generate(each, now)
            return
        self.ready[request] = None
        if request.forked:
            self._generate(sequence, now)
            return
        for each in request.sequences:
            if each.num_generated == 0:
                self._generate(each, now)

    def _select_beams(self) -> None:
        """Let the model say which beams go on; the next step performs it."""
        for request in self.running:
            num_generated = request.sequences[0].num_generated
            if request.beams is None or num_generated <= request.num_selected:
                continue
            request.num_selected = num_generated
            survivor = request.beams.survive(request.id, num_generated, len(request.sequences))
            if survivor is not None and survivor[0] != survivor[1]:
                request.survivors.append(survivor)
                self.ready[request] = None

    def _generate(self, sequence: Sequence, now: int) -> None:
        """Count the token that a finished prefill gives."""
        request = sequence.request
        if request.first_token_at is None:
            request.first_token_at = now
            self.journal.prompt_tokens += request.prompt_tokens
        if sequence.num_generated and request.measured:
            self.journal.gaps.add(now - sequence.last_token_at)
        sequence.num_generated += 1
        sequence.last_token_at = now
        self.journal.output_tokens += 1
        if sequence.has_ended:
            self._end(sequence, now)

    def _end(self, sequence: Sequence, now: int) -> None:
        """Give a sequence's memory back; with its last sequence the request has finished."""
        request = sequence.request
        before = self.account.held(request)
        self._release(sequence, before)
        self.num_seats -= 1
        request.num_live -= 1
        request.last_token_at = now
        if not request.num_live:
            self._leave_running(request)
            self._preempted.pop(request, None)
            request.status = SequenceStatus.FINISHED
            request.finished_at = now
            self.journal.finished += 1
            self.journal.ended(request)

    def _release(self, sequence: Sequence, before: Held) -> None:
        self.allocator.free(sequence)
        self.account.change(before, self.account.held(sequence.request))

    def _free(self, request: Request) -> None:
        before = self.account.held(request)
        for sequence in request.sequences:
            if sequence.block_table:
                self.allocator.free(sequence)
        self.account.change(before, self.account.held(request))

    def _refuse(self, request: Request, reason: str) -> None:
        self.num_seats -= request.num_live if request.status is SequenceStatus.RUNNING else 0
        self._preempted.pop(request, None)
        request.status = SequenceStatus.REFUSED
        request.reason = reason
        self.journal.refused += 1
        self.journal.ended(request)


def _continuation(parent: Sequence, dead: Sequence) -> Sequence:
    """Return a new sequence that goes on from ``parent`` in the place of ``dead``."""
    child = Sequence(parent.request, dead.index)
    child.num_output, child.estimate = dead.num_output, dead.estimate
    child.num_generated = parent.num_generated
    child.last_token_at = parent.last_token_at
    child.branch = Branch(parent.branch, parent.num_stored, dead.index)
    return child


def _admission_order(sequence: Sequence) -> tuple[int, int]:
    return sequence.request.order, sequence.index
