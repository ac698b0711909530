"""Where a run of adjacent blocks goes. A placement chooses addresses; the pool knows who holds them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import Protocol


class Placement(Protocol):
    """Chooses runs of adjacent blocks out of ``num_blocks``."""

    def place(self, num_blocks: int) -> range | None:
        """Return a free run of at least ``num_blocks``, now in use, or None if there is none."""
        ...

    def extend(self, run: range, num_blocks: int) -> range | None:
        """Return ``run`` grown in place to at least ``num_blocks``; None if its neighbour is in use."""
        ...

    def release(self, run: range) -> None:
        """Make ``run`` free again."""
        ...

    def largest_free_run(self) -> int:
        """Return the length of the longest run that ``place`` could hand out."""
        ...


class FirstFit:
    """The hole with the lowest address that is large enough (Knuth, TAOCP 1, section 2.5)."""

    def __init__(self, num_blocks: int) -> None:
        self.holes = [range(num_blocks)] if num_blocks else []  # ordered by address, never adjacent

    def place(self, num_blocks: int) -> range | None:
        """Take the low end of the chosen hole."""
        index = self._choose(num_blocks)
        if index is None:
            return None
        start = self.holes[index].start
        self._shrink(index, num_blocks)
        return range(start, start + num_blocks)

    def extend(self, run: range, num_blocks: int) -> range | None:
        """Take blocks from the hole right behind ``run``."""
        more = num_blocks - len(run)
        if more <= 0:
            return run
        index = bisect_left(self.holes, run.stop, key=lambda hole: hole.start)
        if index == len(self.holes) or self.holes[index].start != run.stop or len(self.holes[index]) < more:
            return None
        self._shrink(index, more)
        return range(run.start, run.stop + more)

    def release(self, run: range) -> None:
        """Return ``run`` to the holes, merged with its neighbours."""
        index = bisect_left(self.holes, run.start, key=lambda hole: hole.start)
        start, stop = run.start, run.stop
        if index < len(self.holes) and self.holes[index].start == stop:
            stop = self.holes.pop(index).stop
        if index and self.holes[index - 1].stop == start:
            index -= 1
            start = self.holes.pop(index).start
        self.holes.insert(index, range(start, stop))

    def largest_free_run(self) -> int:
        """Return the length of the longest hole."""
        return max(map(len, self.holes), default=0)

    def _choose(self, num_blocks: int) -> int | None:
        return next((index for index, hole in enumerate(self.holes) if len(hole) >= num_blocks), None)

    def _shrink(self, index: int, num_blocks: int) -> None:
        hole = self.holes[index]
        if len(hole) == num_blocks:
            del self.holes[index]
        else:
            self.holes[index] = range(hole.start + num_blocks, hole.stop)


class BestFit(FirstFit):
    """The smallest hole that is large enough, the lowest address among equals."""

    def _choose(self, num_blocks: int) -> int | None:
        fitting = ((len(hole), index) for index, hole in enumerate(self.holes) if len(hole) >= num_blocks)
        return min(fitting, default=(0, None))[1]


class Buddy:
    """The binary buddy system (Knowlton 1965), as the PagedAttention paper's Orca baselines use it.

    A run is a chunk of 2**order blocks, aligned within its root. A pool that is no power of two is
    a row of independent roots, its binary decomposition, largest first; chunks of different roots
    never merge. The smallest sufficient chunk is split, the lowest address among equals.
    """

    def __init__(self, num_blocks: int) -> None:
        self.roots: list[int] = []  # start addresses
        self.root_orders: list[int] = []
        self.free: list[list[int]] = [[] for _ in range(num_blocks.bit_length())]  # by order, sorted addresses
        start = 0
        for order in reversed(range(num_blocks.bit_length())):
            if num_blocks >> order & 1:
                self.roots.append(start)
                self.root_orders.append(order)
                self.free[order].append(start)
                start += 1 << order

    def place(self, num_blocks: int) -> range | None:
        """Return a chunk of the next power of two."""
        wanted = (num_blocks - 1).bit_length()
        for order in range(wanted, len(self.free)):
            if self.free[order]:
                start = self.free[order].pop(0)
                while order > wanted:  # keep the lower half, free the upper
                    order -= 1
                    insort(self.free[order], start + (1 << order))
                return range(start, start + (1 << wanted))
        return None

    def extend(self, run: range, num_blocks: int) -> range | None:
        """Stay in the chunk if it is large enough; otherwise merge upwards while the upper buddies are free."""
        if num_blocks <= len(run):
            return run
        wanted, order = (num_blocks - 1).bit_length(), len(run).bit_length() - 1
        root = bisect_right(self.roots, run.start) - 1
        offset = run.start - self.roots[root]
        if wanted > self.root_orders[root] or offset % (1 << wanted):
            return None
        buddies = [(size, run.start + (1 << size)) for size in range(order, wanted)]
        if not all(self._is_free(size, start) for size, start in buddies):
            return None
        for size, start in buddies:
            self.free[size].remove(start)
        return range(run.start, run.start + (1 << wanted))

    def release(self, run: range) -> None:
        """Free a chunk and merge it with its buddy, as far as that goes."""
        start, order = run.start, len(run).bit_length() - 1
        root = bisect_right(self.roots, start) - 1
        base, top = self.roots[root], self.root_orders[root]
        while order < top:
            buddy = base + ((start - base) ^ (1 << order))
            if not self._is_free(order, buddy):
                break
            self.free[order].remove(buddy)
            start = min(start, buddy)
            order += 1
        insort(self.free[order], start)

    def largest_free_run(self) -> int:
        """Return the size of the largest free chunk."""
        return max((1 << order for order, starts in enumerate(self.free) if starts), default=0)

    def _is_free(self, order: int, start: int) -> bool:
        starts = self.free[order]
        index = bisect_left(starts, start)
        return index < len(starts) and starts[index] == start


PLACEMENTS: dict[str, type[FirstFit] | type[Buddy]] = {"buddy": Buddy, "first_fit": FirstFit, "best_fit": BestFit}
