"""Which blocks hold a prefix that requests share: mechanism for policies that can share them."""

from __future__ import annotations

from dataclasses import dataclass

from pagesim.blocks import BlockPool
from pagesim.sequence import Sequence


@dataclass(slots=True)
class Prefix:
    """The full blocks of one group's prefix.

    Attributes:
        blocks: device blocks, in order.
        writer: the sequence that stores them.
        written: whether all of them are stored.
        num_retired: tables that hold it for sequences that have ended.
    """

    blocks: list[int]
    writer: Sequence
    written: bool = False
    num_retired: int = 0


class PrefixTable:
    """Group -> blocks of its prefix, as long as somebody holds them.

    Args:
        pool: the device pool.
        pin: whether a prefix stays, as a holder of its own, until ``release``.
    """

    def __init__(self, pool: BlockPool, *, pin: bool = False) -> None:
        self.pool = pool
        self.pin = pin
        self.entries: dict[int, Prefix] = {}

    def match(self, sequence: Sequence) -> list[int]:
        """Return the blocks at the start of ``sequence`` that are stored already; it may keep none of them."""
        entry = self.entry(sequence)
        if entry is None:
            return []
        if not entry.written and entry.writer is not sequence:
            entry.written = entry.writer.num_stored >= len(entry.blocks) * self.pool.block_size
        return entry.blocks[: self._num_blocks(sequence)] if entry.written else []

    def enter(self, sequence: Sequence) -> None:
        """Note that ``sequence``, just admitted, will store its group's prefix, unless that is known already."""
        group = sequence.request.prefix_group
        if group is None or group in self.entries:
            return
        blocks = list(sequence.block_table[: self._num_blocks(sequence)])
        if blocks:
            self.entries[group] = Prefix(blocks, sequence)
            if self.pin:
                self.pool.share(blocks)

    def leaving(self, sequence: Sequence) -> None:
        """Forget a prefix that ``sequence`` was to store and has not; called before its blocks are given back."""
        entry = self.entry(sequence)
        if entry is not None and entry.writer is sequence and not entry.written:
            entry.written = sequence.num_stored >= len(entry.blocks) * self.pool.block_size
            if not entry.written:
                self._forget(sequence)

    def left(self, sequence: Sequence) -> None:
        """Forget the prefix of ``sequence`` if nobody holds it; called after its blocks were given back."""
        entry = self.entry(sequence)
        if entry is None:
            return
        while entry.blocks and not self.pool.references(entry.blocks[-1]):  # a shorter prompt may hold the first ones
            entry.blocks.pop()
        if not entry.blocks:
            del self.entries[self._group(sequence)]

    def num_users(self, entry: Prefix) -> int:
        """Return how many tables of sequences that have not ended hold the prefix."""
        return self.pool.references(entry.blocks[0]) - self.pin - entry.num_retired

    def release(self) -> None:
        """Drop the pins."""
        if self.pin:
            for group, entry in list(self.entries.items()):
                self.pool.give(entry.blocks)
                if not self.pool.references(entry.blocks[0]):
                    del self.entries[group]
            self.pin = False

    def _forget(self, sequence: Sequence) -> None:
        entry = self.entries.pop(self._group(sequence))
        if self.pin:
            self.pool.give(entry.blocks)

    def entry(self, sequence: Sequence) -> Prefix | None:
        """Return the prefix of the group of ``sequence``, if anybody holds it."""
        group = sequence.request.prefix_group
        return None if group is None else self.entries.get(group)

    @staticmethod
    def _group(sequence: Sequence) -> int:
        return sequence.request.prefix_group or 0

    def _num_blocks(self, sequence: Sequence) -> int:
        """Return how many full blocks of the prefix a request can take over: one token of a prompt is computed."""
        request = sequence.request
        return min(request.prefix_tokens, request.prompt_tokens - 1) // self.pool.block_size
