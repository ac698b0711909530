"""One run a sequence that grows with it, as ``realloc`` grows an array: no block table, and no reservation either.

    | A A A A . . | B B B | . . . . . . |     A wants one more block than its run has:
    | A A A A A A | B B B | . . . . . . |     in place, while the blocks behind it are free;
    | . . . . . . | B B B | A A A A A A A . . |     otherwise it moves to the smallest hole that holds it, and is copied

The kernel needs no block table, for every sequence is one adjacent run. The price is copies, and holes that are too
small for anybody. A move needs both runs at once, so a long sequence may find no room in a pool that is half free.
"""

from __future__ import annotations

from typing import cast

from pagesim.allocators.placement import BestFit
from pagesim.blocks import BlockOps, BlockPool, Copy
from pagesim.errors import ConfigError
from pagesim.sequence import Sequence


class Growing:
    """One adjacent run a sequence that grows in place or moves; no reservation (realloc, best fit).

    Args:
        pool: where the runs are taken.
        growth: a run that is full becomes this many times as long, if there is room; else just long enough.
    """

    bulk = True
    contiguous = True

    def __init__(self, pool: BlockPool, growth: float = 1.25) -> None:
        if growth < 1:
            raise ConfigError(f"growth: {growth} makes a full run shorter; allowed: 1 or more")
        self.pool = pool
        self.growth = growth
        self.holes = BestFit(pool.num_blocks)

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take a run for the prompt; let it grow once it is full."""
        run, needed = _run(sequence), self.pool.blocks_for(sequence.num_stored + num_tokens)
        if needed <= len(run):
            return BlockOps()
        sizes = sorted({needed, max(needed, int(len(run) * self.growth))}, reverse=True)
        if run and any(self._extend(sequence, run, size) for size in sizes):
            return BlockOps()
        for size in sizes:
            target = self._place(size)
            if target is not None:
                ops = BlockOps(
                    [Copy(run.start, target.start, self.pool.blocks_for(sequence.num_stored))] if run else []
                )
                self.free(sequence)
                sequence.block_table = cast("list[int]", target)
                return ops
        return None

    def free(self, sequence: Sequence) -> None:
        """Give the run back, and let it become one with the holes beside it."""
        run = _run(sequence)
        if run:
            self.pool.give(run)
            self.holes.release(run)
        sequence.block_table = []

    def largest_free_run(self) -> int:
        """Return the longest run that could be taken, in blocks; it tells how fragmented the pool is."""
        return self.holes.largest_free_run()

    def _extend(self, sequence: Sequence, run: range, size: int) -> bool:
        """Take what is missing right behind the run."""
        if size - len(run) > self.pool.num_free:
            return False
        longer = self.holes.extend(run, size)
        if longer is None:
            return False
        self.pool.take_at(range(run.stop, longer.stop))
        sequence.block_table = cast("list[int]", longer)
        return True

    def _place(self, size: int) -> range | None:
        """Take a run somewhere else; the pool says how many blocks may be taken, the holes say where."""
        target = self.holes.place(size) if size <= self.pool.num_free else None
        if target is not None:
            self.pool.take_at(target)
        return target


def _run(sequence: Sequence) -> range:
    """Return the blocks of a sequence: a ``range`` is a block table too."""
    return cast(range, sequence.block_table) if sequence.block_table else range(0)
