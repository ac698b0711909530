"""A naive model of what memory holds: every slot has the name of the token that was written last.

Moves are executed one after the other, each as if all of its blocks were read before any is written.
What nobody holds is poisoned, so that a table that still points there reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from pagesim.blocks import BlockPool, Copy, Op, SwapIn, SwapOut
from pagesim.testing.failure import RuleError

Memory = dict[int, str]
"""Slot -> token. A slot that is not there has never been written, or is poisoned."""


class Contents:
    """The slots of a device pool and of the host's beside it.

    Args:
        pool: whose block size, sizes and free blocks are looked at.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.device: Memory = {}
        self.host: Memory = {}

    def perform(self, ops: Iterable[Op]) -> None:
        """Execute a plan in its order. Raises RuleError where it names a block that does not exist."""
        num_blocks = self.pool.num_blocks
        num_homes = self.pool.host.num_blocks if self.pool.host is not None else 0
        for op in ops:
            match op:
                case Copy(source, destination, count):
                    self._check(op, (source, num_blocks), (destination, num_blocks), count)
                    self._move(self.device, source, self.device, destination, count)
                case SwapOut(device, host, count):
                    self._check(op, (device, num_blocks), (host, num_homes), count)
                    self._move(self.device, device, self.host, host, count)
                case SwapIn(host, device, count):
                    self._check(op, (host, num_homes), (device, num_blocks), count)
                    self._move(self.host, host, self.device, device, count)
                case _:
                    raise RuleError("answer", "a plan of Copy, SwapOut and SwapIn", f"{op!r}")

    def slot(self, table: list[int], position: int) -> int:
        """Return the slot of a token, through a block table."""
        block, offset = divmod(position, self.pool.block_size)
        return table[block] * self.pool.block_size + offset

    def poison(self) -> None:
        """Forget what lies in free blocks."""
        _forget_free(self.device, self.pool)
        if self.pool.host is not None:
            _forget_free(self.host, self.pool.host)

    def in_block(self, memory: Memory, block: int) -> list[str]:
        """Return the tokens of a block, slot by slot; a dot where there is none."""
        size = self.pool.block_size
        return [memory.get(slot, ".") for slot in range(block * size, (block + 1) * size)]

    @staticmethod
    def _check(op: Op, source: tuple[int, int], destination: tuple[int, int], count: int) -> None:
        for first, limit in (source, destination):
            if count < 1 or first < 0 or first + count > limit:
                raise RuleError("answer", "moves between blocks that exist", f"{op!r}, where there are {limit} blocks")

    def _move(self, source: Memory, first: int, target: Memory, second: int, count: int) -> None:
        size = self.pool.block_size
        read = [source.get(first * size + offset) for offset in range(count * size)]
        for offset, token in enumerate(read):
            if token is None:
                target.pop(second * size + offset, None)
            else:
                target[second * size + offset] = token


def _forget_free(memory: Memory, pool: BlockPool) -> None:
    size = pool.block_size
    for slot in [slot for slot in memory if not pool.ref_counts[slot // size]]:
        del memory[slot]
