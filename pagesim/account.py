"""Where every slot of the device pool is (semantics, section 4), kept up to date by differences.

    pool = live + cached + reserved + internal + external + free

The account knows the slots that requests hold; what is free, and whether the free ones count as
external, follows from the pool and from why the queue's head was refused.
"""

from __future__ import annotations

from typing import NamedTuple

from pagesim.allocators.prefixes import Prefix, PrefixTable
from pagesim.blocks import BlockPool
from pagesim.sequence import Request, Sequence


class Held(NamedTuple):
    """Slots that a request holds: distinct ones, however many of its sequences share them.

    Attributes:
        live: hold a token that it needs.
        useful: hold one or will; ``reserved`` is ``useful - live``.
        internal: asked for, and never to be written.
        external: beyond what was asked for (the round-up of a placement).
        references: entries of its block tables: the blocks that it would hold without sharing.
        cached: hold a token that is kept only for reuse.
    """

    live: int = 0
    useful: int = 0
    internal: int = 0
    external: int = 0
    references: int = 0
    cached: int = 0


NOTHING = Held()


class Account:
    """The slots held by all requests, in sum.

    Args:
        pool: the device pool.
        num_slots: slots of the device, of which the pool's whole blocks may leave a tail.
        prefixes: the prefixes that requests share, if the allocator shares any.
    """

    __slots__ = (
        "block_size",
        "cached",
        "external",
        "internal",
        "live",
        "num_slots",
        "pool",
        "prefixes",
        "references",
        "tail",
        "useful",
    )

    def __init__(self, pool: BlockPool, num_slots: int, prefixes: PrefixTable | None = None) -> None:
        self.pool = pool
        self.prefixes = prefixes
        self.block_size = pool.block_size
        self.num_slots = num_slots
        self.tail = num_slots - pool.num_blocks * pool.block_size
        self.live = 0
        self.useful = 0
        self.internal = 0
        self.external = 0
        self.cached = 0
        self.references = 0

    @property
    def free(self) -> int:
        """Slots in blocks that nobody holds."""
        return (self.pool.num_blocks - self.pool.num_held) * self.block_size

    def change(self, before: Held, after: Held) -> None:
        """Replace a request's part of the account."""
        self.live += after.live - before.live
        self.useful += after.useful - before.useful
        self.internal += after.internal - before.internal
        self.external += after.external - before.external
        self.references += after.references - before.references
        self.cached += after.cached - before.cached

    def extended(self, num_blocks: int, num_never: int) -> None:
        """Count ``num_blocks`` more, each for a sequence of its own whose table was full.

        Args:
            num_never: slots in them that will never be written: their sequences end before.
        """
        useful = num_blocks * self.block_size - num_never
        self.useful += useful
        self.internal += num_never
        self.references += num_blocks

    def held(self, request: Request, start: int = 0) -> Held:
        """Return what ``request`` holds now, from its block tables.

        With ``start``, only in the logical blocks from there on: what its sequences share they share at the same
        place, so the difference that a call makes behind ``start`` can be told from these alone.
        """
        sequences = request.sequences
        if self.prefixes is not None and request.prefix_group is not None:
            return self._with_prefix(request, self.prefixes.entries.get(request.prefix_group))
        if len(sequences) == 1:
            return self._single(sequences[0])
        return self._shared(sequences, start=start)

    def held_alone(self, sequence: Sequence) -> Held:
        """Return what ``sequence`` adds to the account: the blocks that nobody else holds, and its references.

        Not for requests of a prefix group.
        """
        if len(sequence.request.sequences) == 1:
            return self._single(sequence)
        shared = frozenset(filter(self.pool.is_shared, sequence.block_table))
        return self._shared([sequence], shared)

    def _single(self, sequence: Sequence) -> Held:
        num_blocks = sequence.num_blocks
        if not num_blocks:
            return NOTHING
        capacity = num_blocks * self.block_size
        asked = capacity if sequence.num_asked is None else sequence.num_asked
        if sequence.retired:
            return Held(0, 0, asked, capacity - asked, num_blocks)
        final = sequence.num_final
        if asked <= final:
            return Held(sequence.num_stored, asked, 0, capacity - asked, num_blocks)
        return Held(sequence.num_stored, final, asked - final, capacity - asked, num_blocks)

    def _with_prefix(self, request: Request, entry: Prefix | None) -> Held:
        """Return what a request holds, and its group's prefix, which counts once for the whole group."""
        if entry is None or self.prefixes is None:
            return self._shared(request.sequences)
        own = self._shared(request.sequences, frozenset(entry.blocks))
        slots = len(entry.blocks) * self.block_size
        stored = slots if entry.written else min(entry.writer.num_stored, slots)
        if self.prefixes.num_users(entry):
            return own._replace(live=own.live + stored, useful=own.useful + slots)
        if entry.num_retired:
            return own._replace(internal=own.internal + slots)
        return own._replace(cached=stored)

    def _shared(self, sequences: list[Sequence], apart: frozenset[int] = frozenset(), *, start: int = 0) -> Held:
        """Walk the tables: each distinct block counts once, with the most that any sharer has or will have in it.

        Blocks in ``apart`` are left out, and logical blocks before ``start``.
        """
        size = self.block_size
        blocks: dict[int, tuple[int, int, int]] = {}
        references = 0
        for sequence in sequences:
            table = sequence.block_table or sequence.resident_table
            if not table:
                continue
            stored, final = (0, 0) if sequence.retired else (sequence.num_stored, sequence.num_final)
            asked = len(table) * size if sequence.num_asked is None else sequence.num_asked
            useful_end = min(asked, final)
            references += len(table)
            first = start * size
            for block in table[start:] if start else table:
                if block not in apart:
                    here = (
                        min(max(stored - first, 0), size),
                        min(max(useful_end - first, 0), size),
                        min(max(asked - first, 0), size),
                    )
                    there = blocks.get(block)
                    blocks[block] = here if there is None else tuple(map(max, here, there))  # type: ignore[assignment]
                first += size
        live = useful = asked_slots = 0
        for stored_here, useful_here, asked_here in blocks.values():
            live += stored_here
            useful += useful_here
            asked_slots += asked_here
        return Held(live, useful, asked_slots - useful, len(blocks) * size - asked_slots, references)
