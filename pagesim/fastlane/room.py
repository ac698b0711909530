"""Room for the next token where there is none for all: who has to go, and what they take with them.

As ``schedulers.growth`` and ``schedulers.preemption`` do it, for single sequences that are computed again and victims
that are chosen by rank.
"""

from __future__ import annotations

from typing import NamedTuple

from pagesim.fastlane.state import (
    ADMITTED,
    END,
    FIRST,
    ID,
    LAST,
    LENGTH,
    OUTPUT,
    REQUEST,
    RESIDUE,
    STORED,
    Lane,
    Record,
    num_left,
    num_stored,
)
from pagesim.promises import says
from pagesim.schedulers.victims import Ranked
from pagesim.sequence import Request


class Gone(NamedTuple):
    """What those took with them who had to go, in sum, and for how many there is a block now."""

    granted: int
    requests: int = 0
    decodes: int = 0
    context: int = 0
    entries: int = 0
    measured: int = 0
    blocks: int = 0
    stored: int = 0
    never: int = 0


def can_preempt(lane: Lane) -> bool:
    """Whether somebody can be preempted without asking for requests: for computing it again, by rank."""
    preemption = lane.scheduler.growth.preemption
    computes_again = preemption.mode != "swap" or not lane.queues.memory.can_swap
    return (
        lane.counts_blocks
        and lane.num_sequences == 1
        and computes_again
        and lane.scheduler.admission.rule == "after_swapped"
        and isinstance(preemption.victim, Ranked)
        and says(preemption.victim, "rank", "choose", "_rank")
    )


def make_room(lane: Lane, clock: int, last_tick: int, free: int) -> Gone:
    """Grant blocks in the order of admission, ``free`` and those of requests that have to go for it.

    More are granted than there are free then only where a request that is alone has outgrown the pool.
    """
    granted = blocks = 0
    gone: list[Record] = []
    sums = [0] * 7
    for rec in _due(lane, clock):
        while rec[ID] in lane.running and granted >= free + blocks:
            victim = _victim(lane, rec, clock)
            if victim is None:
                break
            took = _evict(lane, victim, clock, last_tick)
            blocks += took.blocks
            gone.append(victim)
            sums = list(map(sum, zip(sums, took[2:], strict=True)))
        granted += rec[ID] in lane.running
    return Gone(granted, len(gone), *sums)


def _due(lane: Lane, clock: int) -> list[Record]:
    """Return those who need a block for their next token, in the order of admission."""
    size = lane.block_size
    return [
        rec
        for rec in lane.running.values()
        if (not (clock - rec[RESIDUE]) % size if rec[END] else rec[STORED] == rec[LENGTH] and not rec[LENGTH] % size)
    ]


def _victim(lane: Lane, rec: Record, clock: int) -> Record | None:
    """Return who has to go so that ``rec`` can grow: somebody admitted after it, or it; None if it is alone."""
    order = list(lane.running.values())
    policy = lane.scheduler.growth.preemption.victim
    assert isinstance(policy, Ranked)
    candidates = order[next(place for place, other in enumerate(order) if other is rec) + 1 :]
    if not candidates:
        return rec if len(order) > 1 else None

    def key(other: Record) -> tuple[int, int]:
        stored, left = num_stored(other, clock), num_left(other, clock)
        request = other[REQUEST]
        output = lane.arrivals.output(other[ID]) if request is None else request.sequences[0].num_output
        return policy.rank(stored, output - left, left if policy.oracle else 0), other[ID]

    return max(candidates, key=key)


def _evict(lane: Lane, rec: Record, clock: int, last_tick: int) -> Gone:
    """Take the memory of ``rec``; it waits in front of all others."""
    request: Request = lane.make(rec[ID]) if rec[REQUEST] is None else rec[REQUEST]
    rec[REQUEST] = request
    sequence, size = request.sequences[0], lane.block_size
    stored, left = num_stored(rec, clock), num_left(rec, clock)
    final = rec[LENGTH] + rec[OUTPUT] - 1
    blocks = -(-max(stored, rec[LENGTH] if not rec[END] else 0) // size)
    if rec[END]:
        lane.ending[rec[END]].remove(rec)
        lane.pace[rec[RESIDUE]] -= 1
        beyond = final % size
        if beyond and final - beyond >= stored:
            last_at = clock + final - beyond - stored
            lane.never_at[last_at] -= size - beyond
            if not lane.never_at[last_at]:
                del lane.never_at[last_at]
    elif rec[STORED] == rec[LENGTH]:
        lane.ready.remove(rec)
    else:
        lane.prefilling.remove(rec)
    del lane.running[rec[ID]]
    request.admitted_at = rec[ADMITTED]
    if rec[STORED] == rec[LENGTH]:
        request.first_token_at = rec[FIRST]
        sequence.last_token_at = last_tick if rec[END] else rec[LAST]
    sequence.num_generated = sequence.num_output - left
    sequence.num_lost = max(sequence.num_lost, stored)
    sequence.num_stored = 0
    if sequence.block_table:
        lane.pool.give(sequence.block_table)
        sequence.block_table = []
    lane.journal.preemptions_recompute += 1
    request.num_preemptions_recompute += 1
    request.fits_alone = False
    request.requeue()
    lane.queues.preempted[request] = None
    lane.front.appendleft(request)
    never = max(blocks * size - final, 0)
    if rec[END]:
        return Gone(0, 1, 1, stored - clock, blocks, request.measured, blocks, stored, never)
    return Gone(0, 1, blocks=blocks, stored=stored, never=never)
