"""A starter allocator: edit it, then run the experiment beside it.

An allocator decides which blocks hold a sequence's keys and values; it moves no memory. Two methods are
enough: ``allocate`` makes room, all or nothing, and ``free`` undoes it. No base class, no registration:
the experiment names this file and the class.
"""

from __future__ import annotations

from pagesim.blocks import BlockOps, BlockPool
from pagesim.sequence import Sequence


class Doubling:
    """Paged, but grows a sequence's block table by doubling it."""

    def __init__(self, pool: BlockPool) -> None:
        # Add keyword arguments here; a row of the experiment gives them: {policy: ..., my_option: 3}
        self.pool = pool

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Make room for ``num_tokens`` more tokens. None: no room now, and nothing has changed."""
        table = sequence.block_table
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(table)
        if missing > self.pool.num_free:
            return None
        if missing > 0:
            table += self.pool.take(min(max(missing, len(table)), self.pool.num_free))
        return BlockOps()  # block copies and swaps would be listed here, in order

    def free(self, sequence: Sequence) -> None:
        """Give every block of the sequence back; its block table is empty afterwards."""
        self.pool.give(sequence.block_table)
        sequence.block_table.clear()
