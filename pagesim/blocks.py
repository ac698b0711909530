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

    Attributes:
        generation: grows whenever a block becomes free.
        num_promised: held blocks that have no number yet (see ``promise``).
    """

    __slots__ = (
        "_fresh",
        "_held",
        "_num_free",
        "_shared",
        "_stack",
        "block_size",
        "floor",
        "generation",
        "host",
        "num_blocks",
        "num_promised",
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
        self.generation = 0
        self.num_promised = 0
        self._num_free = num_blocks
        # Most blocks are held once: a byte for each says so, and only those held more often have a count.
        self._held = bytearray(num_blocks)
        self._shared: dict[int, int] = {}
        # Free blocks: a stack of those given back, and all from _fresh on. None after take_at: then the
        # bytes alone know, until take() needs a stack again.
        self._stack: list[int] | None = []
        self._fresh = 0

    @property
    def num_free(self) -> int:
        """Blocks that can be taken now: the free ones above the floor."""
        free = self._num_free - self.floor
        return free if free > 0 else 0

    @property
    def num_held(self) -> int:
        """Distinct blocks with a reference, those included that are only promised."""
        return self.num_blocks - self._num_free

    @property
    def ref_counts(self) -> list[int]:
        """The references of every block, counted for the caller: to look at the whole pool."""
        counts = list(self._held)
        for block, count in self._shared.items():
            counts[block] = count
        return counts

    def references(self, block: int) -> int:
        """Return how many tables and pins hold ``block``."""
        return self._shared.get(block) or self._held[block]

    def is_shared(self, block: int) -> bool:
        """Return whether more than one table or pin holds ``block``."""
        return block in self._shared

    def blocks_for(self, num_tokens: int) -> int:
        """Return how many blocks hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def take(self, count: int) -> list[int]:
        """Return ``count`` free blocks, each now with one reference.

        Raises InvariantError if fewer are free: a policy asks ``num_free`` first.
        """
        if not 0 <= count <= self.num_free:
            raise InvariantError(f"INV-4: {count} blocks taken where {self.num_free} are free")
        self._num_free -= count
        return self._number(count)

    def promise(self, count: int) -> bool:
        """Hold ``count`` free blocks without saying which; False: fewer are free, and nothing has changed.

        Which ones is said when somebody looks (``fulfil``): while many sequences grow, nobody does.
        """
        if count > self.num_free:
            return False
        self._num_free -= count
        self.num_promised += count
        return True

    def fulfil(self, count: int) -> list[int]:
        """Return ``count`` of the blocks that are promised, which have their numbers from now on."""
        if not 0 <= count <= self.num_promised:
            raise InvariantError(f"INV-4: {count} blocks numbered where {self.num_promised} are promised")
        self.num_promised -= count
        return self._number(count)

    def forgo(self, count: int) -> None:
        """Give back ``count`` of the blocks that are promised, none of which has a number."""
        if not 0 <= count <= self.num_promised:
            raise InvariantError(f"INV-1: {count} promised blocks given back of {self.num_promised}")
        self.num_promised -= count
        self._num_free += count
        self.generation += 1

    @property
    def has_shared(self) -> bool:
        """Whether any block is held more than once."""
        return bool(self._shared)

    def take_at(self, blocks: range) -> None:
        """Take a run of free blocks at the address that a placement chose.

        Raises InvariantError if one of them is held, or if the floor forbids it.
        """
        count, held = len(blocks), self._held
        if blocks.start < 0 or blocks.stop > self.num_blocks or held.find(1, blocks.start, blocks.stop) >= 0:
            raise InvariantError(f"INV-3: blocks {blocks.start} to {blocks.stop - 1} are not all free")
        if count > self.num_free:
            raise InvariantError(f"INV-4: {count} blocks taken where {self.num_free} are free")
        held[blocks.start : blocks.stop] = b"\1" * count
        self._num_free -= count
        self._stack = None

    def share(self, blocks: Iterable[int]) -> None:
        """Add one reference to each of ``blocks``; they are held already."""
        shared = self._shared
        for block in blocks:
            if not self._held[block]:
                raise InvariantError(f"INV-1: block {block} is shared but nobody holds it")
            shared[block] = shared.get(block, 1) + 1

    def give(self, blocks: Iterable[int]) -> None:
        """Drop one reference of each of ``blocks``; a block without references is free.

        Raises InvariantError if nobody holds one of them.
        """
        if isinstance(blocks, range) and self._give_run(blocks):
            return
        held, shared, freed = self._held, self._shared, []
        for block in blocks:
            if not held[block]:
                raise InvariantError(f"INV-1: block {block} is given back but nobody holds it")
            if block not in shared:
                held[block] = 0
                freed.append(block)
            elif shared[block] == 2:
                del shared[block]
            else:
                shared[block] -= 1
        if freed:
            self._num_free += len(freed)
            self.generation += 1
            if self._stack is not None:
                freed.reverse()
                self._stack += freed

    def _give_run(self, blocks: range) -> bool:
        """Give back a run of blocks held once, all at once; False: nothing has been done."""
        first, end, held = blocks.start, blocks.stop, self._held
        if self._stack is not None or self._shared or blocks.step != 1 or first < 0 or not first < end <= len(held):
            return False
        if held.find(0, first, end) >= 0:
            return False
        held[first:end] = bytes(end - first)
        self._num_free += end - first
        self.generation += 1
        return True

    def _number(self, count: int) -> list[int]:
        """Return ``count`` blocks off the stack, marked as held."""
        held, stack = self._held, self._stack
        if stack is None:
            stack = self._stack = [block for block in reversed(range(self.num_blocks)) if not held[block]]
            self._fresh = self.num_blocks
        taken = stack[: -count - 1 : -1]
        if count:
            del stack[-count:]
        if len(taken) < count:
            fresh = self._fresh
            self._fresh = fresh + count - len(taken)
            taken += range(fresh, self._fresh)
        for block in taken:
            held[block] = 1
        return taken
