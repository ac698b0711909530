"""Blocks on demand, anywhere in the pool, without sharing."""

from __future__ import annotations

from pagesim.blocks import BlockOps, BlockPool, Copy
from pagesim.sequence import Sequence


class Paged:
    """Fixed-size blocks on demand; a fork copies its parent's blocks (PagedAttention without sharing)."""

    bulk = True
    grows_by_block = True
    counts_blocks = True
    stable_refusal = True
    admits_smaller = True

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take the blocks that ``num_tokens`` more tokens need beyond the table."""
        table = sequence.block_table
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(table)
        if missing > self.pool.num_free:
            return None
        if missing > 0:
            table += self.pool.take(missing)
        return BlockOps()

    def free(self, sequence: Sequence) -> None:
        """Give all blocks back."""
        self.pool.give(sequence.block_table)
        sequence.block_table = []

    def fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Copy the parent's stored blocks into blocks of the child's own."""
        stored = parent.block_table[: self.pool.blocks_for(parent.num_stored)]
        if len(stored) > self.pool.num_free:
            return None
        child.block_table += self.pool.take(len(stored))
        return BlockOps(Copy(source, target) for source, target in zip(stored, child.block_table, strict=True))
