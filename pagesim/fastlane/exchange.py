"""Between requests and numbers: what a scheduler's queues hold, as a ``Lane`` holds it, and back.

Both ways between two steps: the last one is committed, the next one is not planned.
"""

from __future__ import annotations

from pagesim.fastlane import asking
from pagesim.fastlane.state import (
    ADMITTED,
    CAPACITY,
    END,
    FIRST,
    ID,
    LAST,
    LENGTH,
    OUTPUT,
    REQUEST,
    SHAPE,
    STORED,
    Lane,
    Record,
    num_stored,
)
from pagesim.record import REASONS
from pagesim.sequence import Branch, Request


def can_enter(lane: Lane) -> bool:
    """Return whether all that runs and waits can be told in numbers now."""
    queues = lane.queues
    if queues.swapped or queues.num_beamed or lane.pool.has_shared:
        return False
    if lane.scheduler.admission.rule == "after_preempted" and queues.preempted:
        return False
    if lane.num_sequences > 1:
        # A group that has begun shares blocks with a history; one that has not is as good as new.
        return not queues.running and not any(request.num_preemptions_recompute for request in queues.waiting.front)
    if not lane.counts_blocks:
        return True
    size = lane.block_size
    return all(_num_blocks(request) == -(-_covered(request) // size) for request in queues.running)


def _num_blocks(request: Request) -> int:
    return request.sequences[0].num_blocks


def _covered(request: Request) -> int:
    """Return the tokens for which a running request holds memory: a prompt's is there as a whole."""
    sequence = request.sequences[0]
    return max(sequence.num_stored, sequence.num_prefill if sequence.num_stored < sequence.num_prefill else 0)


def enter(lane: Lane, time: int, coming: int) -> None:
    """Take everything over from the queues at ``time``. Request ``coming`` arrives next."""
    queues, account, admission = lane.queues, lane.account, lane.scheduler.admission
    decoding, waiting = queues.decoding, queues.waiting
    lane.running, lane.ready, lane.prefilling = {}, [], []
    lane.ending, lane.never_at, lane.due_at = {}, {}, {}
    lane.pace = [0] * lane.block_size
    lane.clock, lane.last_tick, lane.seats = decoding.clock.value, decoding.last_tick, queues.num_seats
    lane.held, lane.live, lane.internal = lane.pool.num_held, account.live, account.internal
    lane.external, lane.extra = account.external, account.references - lane.held
    for request in queues.running:
        lane.running[request.id] = _record(lane, request)
    lane.front = waiting.front
    lane.coming, lane.num_waiting = coming, waiting.num_others
    lane.head = waiting.first if waiting.num_others else coming
    waiting.num_others = 0
    lane.generation = lane.pool.generation
    lane.refused_id = lane.asked_id = -1
    refusal = admission.refusal
    if refusal is not None and lane.front and refusal[0] is lane.front[0] and refusal[1] == lane.generation:
        lane.refused_id, lane.refused_at = lane.front[0].id, lane.generation
    decoding.clear()
    queues.running.clear()
    queues.ready.clear()
    queues.prefilling.clear()
    lane.reason = REASONS.index(admission.held)
    lane.is_cut_off = False
    lane.ledger.begin(time, coming)


def _record(lane: Lane, request: Request) -> Record:
    """Return a running request as numbers, and put it where it stands."""
    queues, sequence = lane.queues, request.sequences[0]
    is_prefilling = sequence in queues.prefilling
    last = sequence.last_token_at
    if sequence.is_decoding:
        if sequence not in queues.decoding.newcomers:
            last = queues.decoding.last_tick
        if not lane.counts_blocks and sequence.keeps_pace:
            sequence.number_blocks()  # the policy will see its table
        sequence.keeps_pace = False
        sequence.leave()
    stored, left = sequence.num_stored, sequence.num_output - sequence.num_generated
    length, output = (sequence.num_prefill, left) if is_prefilling else (stored, left + 1)
    admitted, first = request.admitted_at, request.first_token_at
    rec: Record = [request.id, length, output, stored, admitted, first, last, 0, 0, 0, None, request]
    if is_prefilling:
        lane.prefilling.append(rec)
    else:
        lane.ready.append(rec)
    if not lane.counts_blocks:
        rec[SHAPE] = asking.shape(lane, rec)
    return rec


def leave(lane: Lane, time: int) -> None:
    """Give everything back to the queues."""
    queues, account, pool = lane.queues, lane.account, lane.pool
    decoding, waiting, admission = queues.decoding, queues.waiting, lane.scheduler.admission
    if lane.counts_blocks:
        more = lane.held - pool.num_held
        if more > 0:
            pool.promise(more)
        elif more < 0:
            pool.forgo(-more)
    account.live, account.internal, account.external = lane.live, lane.internal, lane.external
    account.useful = lane.held * lane.block_size - lane.internal - lane.external
    account.references = lane.held + lane.extra
    decoding.clock.value, decoding.clock.granted = lane.clock, lane.granted
    decoding.last_tick = lane.last_tick
    queues.now, queues.num_seats = time, lane.seats
    for rec in lane.running.values():
        request = rec[REQUEST]
        if request is None:
            request = lane.make(rec[ID])
        _begin(lane, rec, request)
    queues.carried += lane.carried
    lane.carried.clear()
    waiting.first, waiting.end, waiting.num_others = lane.head, lane.coming, lane.num_waiting
    admission.refusal = None
    if lane.num_waiting and lane.asked_id >= 0 and waiting[len(waiting.front)].id == lane.asked_id:
        waiting.front[-1].fits_alone = True
    if len(waiting) and lane.refused_id == waiting[0].id and lane.refused_at == lane.generation:
        admission.refusal = (waiting[0], pool.generation, 0)


def _begin(lane: Lane, rec: Record, request: Request) -> None:
    """Let a request run that the loop has served so far."""
    queues = lane.queues
    request.admitted_at = rec[ADMITTED]
    queues.enter_running(request)
    stored, length = num_stored(rec, lane.clock), rec[LENGTH]
    is_prefilling = rec[STORED] < length
    if is_prefilling:
        left = rec[OUTPUT]
    else:
        left = rec[OUTPUT] - 1 - (stored - length)
        request.first_token_at = rec[FIRST]
    has_forked = request.forked = lane.num_sequences == 1 or rec[END] > 0
    for sequence in request.sequences:
        sequence.num_generated = sequence.num_output - left
        if not is_prefilling:
            sequence.last_token_at = lane.last_tick if rec[END] else rec[LAST]
        if has_forked or sequence.index == 0:
            sequence.num_stored = stored
        if sequence.index and has_forked:
            sequence.branch = Branch(None, length, sequence.index)
    if lane.counts_blocks and not (rec[END] and lane.num_sequences == 1):
        _number(lane, request, length, has_forked=has_forked)
    for sequence in request.sequences if has_forked else request.sequences[:1]:
        if is_prefilling:
            queues.prefilling[sequence] = None
        elif not rec[END] or (not lane.counts_blocks and stored >= rec[CAPACITY]):
            queues.ready[request] = None
        elif lane.counts_blocks:
            queues.decoding.rejoin(sequence)
        else:
            queues.decoding.join(sequence)


def _number(lane: Lane, request: Request, length: int, *, has_forked: bool) -> None:
    """Give numbers to the blocks of a request; its sequences share those of the whole prompt, or none."""
    pool, size = lane.pool, lane.block_size
    first = request.sequences[0]
    if not has_forked or lane.num_sequences == 1:
        covered = max(first.num_stored, length)
        first.block_table = first.block_table + pool.fulfil(-(-covered // size) - len(first.block_table))
        return
    num_blocks = -(-first.num_stored // size)
    shared = pool.fulfil(length // size) if lane.shares_forks else []
    for sequence in request.sequences:
        if sequence.index:
            pool.share(shared)
        sequence.block_table = shared + pool.fulfil(num_blocks - len(shared))


__all__ = ["can_enter", "enter", "leave"]
