"""Copy-on-write with a second pool of blocks in host memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Listing

from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.blocks import BlockOps, SwapIn, SwapOut
from pagesim.sequence import Sequence


class Swapping(CopyOnWrite):
    """Copy-on-write; preempted requests move to host blocks and back, each distinct block once.

    Sharing among a request's sequences is the same on the host and after the return. Blocks that
    another request (or a pin) holds too stay on the device, with their reference.
    """

    def swap_out(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Move the stored blocks of ``sequences`` to the host. None: it is full, or there is none."""
        pool, host = self.pool, self.pool.host
        if host is None:
            return None
        tables = {s: s.block_table[: pool.blocks_for(s.num_stored)] for s in sequences}
        holders = Counter(block for table in tables.values() for block in table)
        staying = {block for block, count in holders.items() if pool.references(block) > count}
        moving = [block for block in holders if block not in staying]
        if len(moving) > host.num_free:
            return None
        homes = dict(zip(moving, host.take(len(moving)), strict=True))
        is_placed: set[int] = set()
        for sequence, table in tables.items():
            self.prefixes.leaving(sequence)
            sequence.resident_table = [block for block in table if block in staying]
            sequence.host_table = [homes[block] for block in table if block not in staying]
            host.share(home for home in sequence.host_table if home in is_placed)
            is_placed.update(sequence.host_table)
            pool.give(sequence.block_table[len(sequence.resident_table) :])
            sequence.block_table = []
        for sequence in sequences:
            self.prefixes.left(sequence)
        return BlockOps(SwapOut(device, home) for device, home in homes.items())

    def swap_in(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Bring them back into blocks of the device."""
        pool, host = self.pool, self.pool.host
        if host is None:
            return None
        homes = list(dict.fromkeys(home for sequence in sequences for home in sequence.host_table))
        if len(homes) > pool.num_free:
            return None
        blocks = dict(zip(homes, pool.take(len(homes)), strict=True))
        is_placed: set[int] = set()
        for sequence in sequences:
            returned = [blocks[home] for home in sequence.host_table]
            pool.share(block for block in returned if block in is_placed)
            is_placed.update(returned)
            host.give(sequence.host_table)
            sequence.block_table = sequence.resident_table + returned
            sequence.resident_table, sequence.host_table = [], []
        return BlockOps(SwapIn(home, device) for home, device in blocks.items())
