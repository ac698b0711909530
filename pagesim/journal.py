"""What happened so far: counters, and the gaps between tokens. Only ever added to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pagesim.sequence import Request


class GapHistogram:
    """Counts durations in buckets of 1/1024 relative width, so that memory stays flat.

    A bucket is named by its lower end: the duration with all but its 11 leading bits cleared. A
    quantile is therefore at most 0.1 % low; the maximum is exact.
    """

    __slots__ = ("counts", "maximum")

    PRECISION_BITS = 11

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.maximum = 0

    def add(self, gap: int, count: int = 1) -> None:
        """Count ``count`` gaps of ``gap`` ticks."""
        shift = gap.bit_length() - self.PRECISION_BITS
        bucket = gap >> shift << shift if shift > 0 else gap
        self.counts[bucket] = self.counts.get(bucket, 0) + count
        if gap > self.maximum:
            self.maximum = gap

    def add_series(self, first: int, slope: int, length: int, count: int) -> None:
        """Count ``count`` gaps of each of the ``length`` durations first, first + slope, first + 2 slope, ..."""
        gap, last = first, first + (length - 1) * slope
        while length:
            shift = max(gap.bit_length() - self.PRECISION_BITS, 0)
            beyond = (gap >> shift) + 1 << shift  # where the next bucket begins
            within = length if beyond > last else -((gap - beyond) // slope)
            self.add(gap, count * within)
            gap += within * slope
            length -= within
            self.maximum = max(self.maximum, last)

    def quantile(self, share: float) -> int | None:
        """Return the smallest bucket that at least ``share`` of the gaps do not exceed; None if empty."""
        total = sum(self.counts.values())
        if not total:
            return None
        rank, seen = max(share * total, 1), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return bucket
        return self.maximum


@dataclass(slots=True)
class Journal:
    """The counters of a run.

    ``ended`` is called with each request that has finished or been refused, unless nobody needed it as an object
    (see ``fastlane``); nothing else is kept of it.
    """

    ended: Callable[[Request], None] = lambda request: None
    arrived: int = 0
    finished: int = 0
    refused: int = 0
    iterations: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    preemptions_recompute: int = 0
    preemptions_swap: int = 0
    recomputed_tokens: int = 0
    swapped_out_blocks: int = 0
    swapped_in_blocks: int = 0
    swap_stall: int = 0
    copied_blocks: int = 0
    matched_tokens: int = 0
    lookups_first: int = 0
    lookups_retry: int = 0
    lookups_preempted: int = 0
    gaps: GapHistogram = field(default_factory=GapHistogram)
