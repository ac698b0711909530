"""The block pool and the plans that move blocks: mechanism, no policy.

    slots   0 1 2 3 | 4 5 6 7 | 8 9 10 11 | ...      block_size = 4
    blocks     0    |    1    |     2     | ...
    sequence with block_table [2, 0] and 6 stored tokens: slots 8 9 10 11, then 0 1

A block is free (reference count 0) or held by as many tables and pins as its count says. There
is one array of counts, whether blocks are taken anywhere (``take``) or at an address that a
placement chose (``take_at``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pagesim.errors import InvariantError


class Copy(NamedTuple):
    """Copy ``num_blocks`` adjacent device blocks, as if all were read before any is written."""

    source: int
    destination: int
    num_blocks: int = 1


class SwapOut(NamedTuple):
    """Move ``num_blocks`` adjacent device blocks to adjacent host blocks, in one transfer."""

    device: int
    host: int
    num_blocks: int = 1


class SwapIn(NamedTuple):
    """Move ``num_blocks`` adjacent host blocks to adjacent device blocks, in one transfer."""

    host: int
    device: int
    num_blocks: int = 1


Op = Copy | SwapOut | SwapIn


class BlockOps(list[Op]):
    """An ordered plan of block moves; its meaning is execution in order, before the step's writes.

    A backend may batch only what does not conflict: a destination that is an earlier source or
    destination splits the batch.
    """

    __slots__ = ()


class BlockPool:
    """Device blocks with reference counts, and the host's beside them.

    Args:
        num_blocks: whole blocks of the pool.
        block_size: slots (tokens) of a block.
        watermark: blocks that an admission leaves free; ``floor`` is set to it while admitting.
        host: the pool of host blocks for swapping, None if there is none.
    """

    __slots__ = (
        "_fresh",
        "_num_free",
        "_stack",
        "block_size",
        "floor",
        "generation",
        "host",
        "num_blocks",
        "ref_counts",
        "watermark",
    )

    def __init__(self, num_blocks: int, block_size: int, *, watermark: int = 0, host: BlockPool | None = None) -> None:
        if num_blocks < 0 or block_size < 1 or watermark < 0:
            raise ValueError(f"a pool of {num_blocks} blocks of {block_size} slots, watermark {watermark}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.watermark = watermark
        self.host = host
        self.floor = 0
        self.generation = 0  # grows whenever a block becomes free
        self.ref_counts = [0] * num_blocks
        self._num_free = num_blocks
        # Free blocks: a stack of those given back, and all from _fresh on. None after take_at: then the
        # reference counts alone know, until take() needs a stack again.
        self._stack: list[int] | None = []
        self._fresh = 0

    @property
    def num_free(self) -> int:
        """Blocks that can be taken now: the free ones above the floor."""
        return max(self._num_free - self.floor, 0)

    @property
    def num_held(self) -> int:
        """Distinct blocks with a reference."""
        return self.num_blocks - self._num_free

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def take(self, count: int) -> list[int]:
        """Return ``count`` free blocks, each now with one reference.

        Raises InvariantError if fewer are free: a policy asks ``num_free`` first.
        """
        if not 0 <= count <= self.num_free:
            raise InvariantError(f"INV-4: {count} blocks taken where {self.num_free} are free")
        if self._stack is None:
            self._stack = [block for block in reversed(range(self.num_blocks)) if not self.ref_counts[block]]
            self._fresh = self.num_blocks
        stack = self._stack
        taken = stack[: -count - 1 : -1]
        if count:
            del stack[-count:]
        if len(taken) < count:
            fresh = self._fresh
            self._fresh = fresh + count - len(taken)
            taken += range(fresh, self._fresh)
        ref_counts = self.ref_counts
        for block in taken:
            ref_counts[block] = 1
        self._num_free -= count
        return taken

    def take_at(self, blocks: range) -> None:
        """Take a run of free blocks at the address that a placement chose.

        Raises InvariantError if one of them is held, or if the floor forbids it.
        """
        count = len(blocks)
        if blocks.start < 0 or blocks.stop > self.num_blocks or any(self.ref_counts[blocks.start : blocks.stop]):
            raise InvariantError(f"INV-3: blocks {blocks.start} to {blocks.stop - 1} are not all free")
        if count > self.num_free:
            raise InvariantError(f"INV-4: {count} blocks taken where {self.num_free} are free")
        self.ref_counts[blocks.start : blocks.stop] = [1] * count
        self._num_free -= count
        self._stack = None

    def share(self, blocks: Iterable[int]) -> None:
        """Add one reference to each of ``blocks``; they are held already."""
        for block in blocks:
            if not self.ref_counts[block]:
                raise InvariantError(f"INV-1: block {block} is shared but nobody holds it")
            self.ref_counts[block] += 1

    def give(self, blocks: Iterable[int]) -> None:
        """Drop one reference of each of ``blocks``; a block without references is free."""
        if isinstance(blocks, range) and self._stack is None and self._give_run(blocks):
            return
        ref_counts, freed = self.ref_counts, []
        for block in blocks:
            count = ref_counts[block] - 1
            if count < 0:
                raise InvariantError(f"INV-1: block {block} is given back but nobody holds it")
            ref_counts[block] = count
            if not count:
                freed.append(block)
        if freed:
            self._num_free += len(freed)
            self.generation += 1
            if self._stack is not None:
                freed.reverse()
                self._stack += freed

    def _give_run(self, blocks: range) -> bool:
        """Give back a run that nobody shares, all at once; False: nothing has been done."""
        counts = self.ref_counts[blocks.start : blocks.stop]
        if blocks.step != 1 or blocks.start < 0 or counts.count(1) != len(blocks):
            return False
        self.ref_counts[blocks.start : blocks.stop] = [0] * len(counts)
        self._num_free += len(counts)
        self.generation += 1
        return True
