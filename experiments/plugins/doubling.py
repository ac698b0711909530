"""A block table that doubles, as a dynamic array does.

    stored   1        17          33                    65
    table    1 block  2 blocks    4 blocks              8 blocks      of 16 slots

The allocator is asked log2 of the length times instead of once a block. The price is the last half of the table:
a sequence that ends just after a doubling has used half of what it holds.
"""

from __future__ import annotations

from pagesim.blocks import BlockOps, BlockPool
from pagesim.sequence import Sequence


class Doubling:
    """Paged, but grows a sequence's block table by doubling it."""

    bulk = True

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take as many blocks as are there already, or as many as are left; never fewer than are missing."""
        table = sequence.block_table
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(table)
        if missing > self.pool.num_free:
            return None
        if missing > 0:
            table += self.pool.take(min(max(missing, len(table)), self.pool.num_free))
        return BlockOps()

    def free(self, sequence: Sequence) -> None:
        """Give all blocks back."""
        self.pool.give(sequence.block_table)
        sequence.block_table.clear()
