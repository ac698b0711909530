"""Paged, with blocks shared between sequences until one of them writes."""

from __future__ import annotations

from pagesim.allocators.prefixes import PrefixTable
from pagesim.blocks import BlockOps, BlockPool, Copy
from pagesim.sequence import Sequence


class CopyOnWrite:
    """Blocks on demand; a fork shares every block, the first write to a shared one copies it.

    k sequences that share a partial block make k - 1 copies: the last one writes in place. A full
    block is never written again, so it is never copied. Requests of a prefix group share the full
    blocks of their prefix, as long as one of them is there.

    Args:
        pool: where blocks are taken.
        pin_prefixes: whether a prefix stays when nobody uses it.
    """

    bulk = True
    grows_by_block = True
    counts_blocks = True
    shares_forks = True
    stable_refusal = True
    admits_smaller = True

    def __init__(self, pool: BlockPool, *, pin_prefixes: bool = False) -> None:
        self.pool = pool
        self.prefixes = PrefixTable(pool, pin=pin_prefixes)

    def match(self, sequence: Sequence) -> int:
        """Return how many tokens of its group's prefix are stored."""
        return len(self.prefixes.match(sequence)) * self.pool.block_size

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take what the table lacks, and a block of its own if the next write is to a shared one."""
        pool, table, stored = self.pool, sequence.block_table, sequence.num_stored
        if not table and not stored and sequence.request.prefix_group is not None:
            return self._begin(sequence, num_tokens)
        written = stored // pool.block_size
        is_shared = written < len(table) and pool.is_shared(table[written])
        missing = pool.blocks_for(stored + num_tokens) - len(table)
        if max(missing, 0) + is_shared > pool.num_free:
            return None
        ops = BlockOps()
        if is_shared:
            source, (target,) = table[written], pool.take(1)
            ops.append(Copy(source, target))
            pool.give([source])
            table[written] = target
        if missing > 0:
            table += pool.take(missing)
        return ops

    def free(self, sequence: Sequence) -> None:
        """Drop its reference to each block."""
        self.prefixes.leaving(sequence)
        self.pool.give(sequence.block_table)
        sequence.block_table = []
        self.prefixes.left(sequence)

    def fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Let the child share the parent's stored blocks. Needs no room."""
        shared = parent.block_table[: self.pool.blocks_for(parent.num_stored)]
        self.pool.share(shared)
        child.block_table = shared
        return BlockOps()

    def release_pins(self) -> None:
        """Give pinned prefixes back, at the end of a run."""
        self.prefixes.release()

    def _begin(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Start a sequence of a prefix group from the blocks that are stored already."""
        shared = self.prefixes.match(sequence)
        missing = self.pool.blocks_for(num_tokens) - len(shared)
        if missing > self.pool.num_free:
            return None
        self.pool.share(shared)
        sequence.block_table = [*shared, *self.pool.take(missing)]
        self.prefixes.enter(sequence)
        return BlockOps()
