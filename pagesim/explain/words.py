"""The sentences: what happened to a request, why it waits, and where one of its tokens is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Listing

from pagesim.explain.frames import SequenceView
from pagesim.explain.watch import Hold, Taken
from pagesim.schedulers.admission import Limits
from pagesim.sequence import Request, SequenceStatus


def count(number: int, noun: str) -> str:
    """Return ``1 block``, ``2 blocks``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(items: Iterable[object], most: int = 8) -> str:
    """Return ``1, 2 and 3``; of many the first ones and how many more there are."""
    names = [str(item) for item in items]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def spans(blocks: Iterable[int]) -> Iterator[range]:
    """Yield maximal runs of consecutive numbers, in the order given."""
    start = stop = None
    for block in blocks:
        if stop is not None and block == stop:
            stop += 1
            continue
        if start is not None and stop is not None:
            yield range(start, stop)
        start, stop = block, block + 1
    if start is not None and stop is not None:
        yield range(start, stop)


def places(blocks: Listing[int], block_size: int) -> str:
    """Return where blocks are: ``blocks 3, 7 and 8`` or ``slots 0 to 23``."""
    noun = "slot" if block_size == 1 else "block"
    if len(blocks) == 1:
        return f"{noun} {blocks[0]}"
    runs: list[str] = []
    for run in spans(blocks):
        runs += [f"{run.start} to {run.stop - 1}"] if len(run) > 2 else map(str, run)
    return f"{noun}s {listed(runs)}" if runs else f"no {noun}"


def noun_of(block_size: int) -> str:
    """Return how a unit of memory is called: a block of one slot is a slot."""
    return "slot" if block_size == 1 else "block"


def waits(
    hold: Hold, *, needs: int | None, block_size: int, limits: Limits, tokens_left: int, taken: list[Taken]
) -> str:
    """Return why the first request of a queue was not let in.

    Args:
        hold: what was noted when it was held back.
        needs: blocks that an empty pool gives it, None if that is not known.
        block_size: of the pool.
        limits: of a batch.
        tokens_left: of ``max_num_batched_tokens``.
        taken: preemptions of the same step.
    """
    request = hold.request
    is_swapped = request.status is SequenceStatus.SWAPPED
    who = f"request {request.id} waits{' on the host' if is_swapped else ''}: "
    if hold.reason == "sequences":
        seats = count(request.num_live, "seat")
        return f"{who}needs {seats}, {hold.num_seats} of max_num_seqs {limits.max_num_seqs} are taken"
    if hold.reason == "tokens":
        total = request.num_live if is_swapped else sum(s.num_prefill for s in request.live_sequences)
        return (
            f"{who}needs {count(total, 'token')} in a step, {max(tokens_left, 0)} of max_num_batched_tokens "
            f"{limits.max_num_batched_tokens} are left"
        )
    if hold.by_allocator or is_swapped:
        return who + _room(hold, needs, block_size)
    if taken:
        return f"{who}a request has just been preempted, so nobody is let in in this step"
    if hold.num_swapped:
        return f"{who}{count(hold.num_swapped, 'request')} on the host {_verb(hold.num_swapped, 'come')} first"
    return f"{who}those that were preempted have to end first"


def _verb(number: int, verb: str) -> str:
    return f"{verb}s" if number == 1 else verb


def _room(hold: Hold, needs: int | None, block_size: int) -> str:
    noun = noun_of(block_size)
    text = f"{hold.num_free:,} free" if needs is not None else f"{count(hold.num_free, noun)} free"
    if needs is not None:
        text = f"needs {count(needs, noun)}, {text}"
    if hold.floor:
        text += f", {hold.floor} kept by the watermark"
    if needs is not None and hold.largest_run is not None and needs <= hold.num_free - hold.floor:
        text += f", but no more than {hold.largest_run:,} of them in one run"
    return text


def preempted(taken: Taken, block_size: int) -> str:
    """Return who made whom go, and what that means."""
    victim, asker = taken.victim, taken.asker
    noun = noun_of(block_size)
    if victim is asker:
        why = f"request {victim.id} needs a {noun}, finds none and may take it from nobody: it goes itself"
    else:
        why = f"request {asker.id} needs a {noun} and finds none: request {victim.id} is preempted"
    if victim.status is SequenceStatus.SWAPPED:
        return f"{why}, its {count(taken.num_blocks, noun)} move to the host"
    return (
        f"{why}, its {count(taken.num_blocks, noun)} are given back and its {count(taken.num_stored, 'token')} "
        "will be computed again"
    )


def address(sequence: SequenceView, position: int, block_size: int) -> str:
    """Return the arithmetic of where a token's keys and values are.

    Raises IndexError if the block table does not reach as far.
    """
    logical, offset = divmod(position, block_size)
    block = sequence.table[logical]
    slot = block * block_size + offset
    who = f"token {position} of {sequence.name}"
    if block_size == 1:
        first = sequence.table[0]
        if block == first + position:
            return f"{who}: its run begins at slot {first}; {first} + {position} = slot {slot}"
        return f"{who}: block table[{position}] = slot {slot}"
    return (
        f"{who}: {position} // {block_size} = logical block {logical}, "
        f"{position} % {block_size} = offset {offset}; block table[{logical}] = {block}; "
        f"{block} * {block_size} + {offset} = slot {slot}"
    )


def length(request: Request) -> str:
    """Return what a request brings: its prompt and its outputs."""
    text = f"prompt of {count(request.prompt_tokens, 'token')}, output of {request.output_tokens:,}"
    if len(request.sequences) > 1:
        text += f" in {len(request.sequences)} {'beams' if request.beams is not None else 'samples'}"
    return text
