"""Calls to a policy that places its blocks itself: where a request comes, goes, or outgrows its table."""

from __future__ import annotations

from typing import NamedTuple

from pagesim.blocks import BlockOps, Copy
from pagesim.errors import InvariantError
from pagesim.fastlane.state import CAPACITY, END, ID, REQUEST, SHAPE, STORED, Lane, Record, num_left, num_stored
from pagesim.sequence import Request


class Grown(NamedTuple):
    """What a policy has given to those that were asked for: all of them, or those before the one that it refused."""

    blocks: int
    internal: int
    external: int
    entries: int
    copied: int
    refused: bool


def largest_run(lane: Lane) -> int:
    """Return the longest run of free blocks; 0 for policies that place none."""
    return 0 if lane.largest_free_run is None else lane.largest_free_run()


def admit(lane: Lane, request: Request, floor: int) -> int | None:
    """Ask for the prompt of a request: how many blocks are copied for it, or None."""
    ops = lane.queues.memory.ask(request.sequences[0], request.sequences[0].num_prefill, above=floor)
    return None if ops is None else _num_copied(lane, ops)


def never(lane: Lane, request: Request) -> bool:
    """Whether an empty pool would refuse the prompt too."""
    return lane.scheduler.admission.never(request.sequences[:1])


def to_ask(lane: Lane, clock: int) -> list[Record]:
    """Return those whose tables have no room for their next token, in the order of admission."""
    found = [rec for rec in lane.due_at.get(clock, ()) if rec[END] > clock]
    found += [rec for rec in lane.ready if rec[STORED] >= rec[CAPACITY]]
    if len(found) > 1:
        place = {number: index for index, number in enumerate(lane.running)}
        found.sort(key=lambda rec: place[rec[ID]])
    return found


def ask(lane: Lane, records: list[Record], clock: int) -> Grown:
    """Ask for the next token of each of ``records``, up to the first refusal.

    After one, ``carried`` keeps the moves of those before it: they are part of the scheduler's next step.
    """
    num_copied, is_refused = 0, False
    lane.due_at.pop(clock, None)
    before, decoding = _held_by(records), [rec for rec in records if rec[END]]
    entries = _held_by(decoding)[0]
    for rec in records:
        sequence = rec[REQUEST].sequences[0]
        sequence.num_stored = num_stored(rec, clock)
        sequence.num_generated = sequence.num_output - num_left(rec, clock)
        ops = lane.queues.memory.ask(sequence, 1)
        if ops is None:
            is_refused = True
            break
        num_copied += _num_copied(lane, ops)
        lane.carried += ops
        rec[SHAPE] = shape(lane, rec)
        if rec[END]:
            enter_due(lane, rec, clock)
    if not is_refused:
        lane.carried.clear()
    after = _held_by(records)
    return Grown(
        blocks=after[0] - before[0],
        internal=after[1] - before[1],
        external=after[2] - before[2],
        entries=_held_by(decoding)[0] - entries,
        copied=num_copied,
        refused=is_refused,
    )


def enter_due(lane: Lane, rec: Record, clock: int) -> None:
    """Note when a sequence that decodes outgrows its table, if it does."""
    due = clock + max(rec[CAPACITY] - num_stored(rec, clock), 1)
    if due < rec[END]:
        lane.due_at.setdefault(due, []).append(rec)


def shape(lane: Lane, rec: Record) -> tuple[int, int, int]:
    """Return what a sequence holds: blocks, slots never to be written, slots beyond what was asked for."""
    sequence = rec[REQUEST].sequences[0]
    blocks = len(sequence.block_table)
    capacity = blocks * lane.block_size
    asked = capacity if sequence.num_asked is None else sequence.num_asked
    rec[CAPACITY] = asked
    return blocks, max(asked - sequence.num_final, 0), capacity - asked


def _held_by(records: list[Record]) -> tuple[int, ...]:
    """Return what ``records`` hold, in sum: as ``shape`` says it."""
    return tuple(map(sum, zip(*(rec[SHAPE] for rec in records), strict=True))) or (0, 0, 0)


def _num_copied(lane: Lane, ops: BlockOps) -> int:
    num_copied = 0
    for op in ops:
        if not isinstance(op, Copy):
            raise InvariantError(f"{type(lane.allocator).__name__} says `bulk`, but its allocate plans {op}")
        num_copied += op.num_blocks
    return num_copied
