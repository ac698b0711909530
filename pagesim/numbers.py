"""Exact mean and percentiles of numbers that are too many to be held in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagesim.rows import Rows

_DIGIT_BITS: Final = 8
_DIGITS: Final = 1 << _DIGIT_BITS
_SIGN: Final = np.uint64(1 << 63)


class Numbers:
    """A column of float64 without NaN.

    Args:
        folder: where many of them wait in a temporary file; the system's by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._rows = Rows(1, folder)

    def __len__(self) -> int:
        return len(self._rows)

    def extend(self, values: NDArray[np.float64]) -> None:
        """Append (n,) numbers; NaN are left out."""
        self._rows.extend(values[~np.isnan(values)].view(np.int64)[:, np.newaxis])

    def mean(self) -> float | None:
        """Return the mean; None if there are no numbers.

        The sum is rounded once (``math.fsum``), so neither the order nor the chunks matter.
        """
        if not len(self):
            return None
        return math.fsum(value for chunk in self._chunks() for value in chunk.tolist()) / len(self)

    def percentiles(self, quantiles: Sequence[float]) -> list[float | None]:
        """Return percentiles, each between two numbers linearly, as ``numpy.percentile`` does; None if there are none.

        Args:
            quantiles: from 0 to 100.
        """
        if not len(self):
            return [None] * len(quantiles)
        at = [(len(self) - 1) * (q / 100) for q in quantiles]
        below = [math.floor(place) for place in at]
        above = [min(rank + 1, len(self) - 1) for rank in below]
        ranked = self._ranked([*below, *above])
        return [
            _between(ranked[low], ranked[high], place - low) for place, low, high in zip(at, below, above, strict=True)
        ]

    def _ranked(self, ranks: Iterable[int]) -> dict[int, float]:
        """Return the numbers of these ranks, from 0 for the smallest.

        In eight passes: each counts the next 8 bits of the numbers that begin like one that is wanted. Memory is
        that of the counts, whatever the numbers are.
        """
        wanted = {0: [(rank, rank) for rank in set(ranks)]}  # first bits -> (rank, rank among those of these bits)
        for shift in range(64 - _DIGIT_BITS, -1, -_DIGIT_BITS):
            counts = {bits: np.zeros(_DIGITS, dtype=np.int64) for bits in wanted}
            for chunk in self._chunks():
                keys = _ordered(chunk) >> np.uint64(shift)
                digits, bits_before = (keys & np.uint64(_DIGITS - 1)).astype(np.int64), keys >> np.uint64(_DIGIT_BITS)
                for bits, count in counts.items():
                    count += np.bincount(digits[bits_before == bits], minlength=_DIGITS)
            narrower: dict[int, list[tuple[int, int]]] = {}
            for bits, members in wanted.items():
                ends = np.cumsum(counts[bits])
                for rank, within in members:
                    digit = int(np.searchsorted(ends, within, side="right"))
                    before = int(ends[digit - 1]) if digit else 0
                    narrower.setdefault(bits << _DIGIT_BITS | digit, []).append((rank, within - before))
            wanted = narrower
        keys = np.array(list(wanted), dtype=np.uint64)
        values = _from_ordered(keys).tolist()
        return {rank: value for value, members in zip(values, wanted.values(), strict=True) for rank, _ in members}

    def _chunks(self) -> Iterator[NDArray[np.float64]]:
        for chunk in self._rows.chunks():
            yield chunk[:, 0].view(np.float64)


def _ordered(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Return whole numbers in the order of the values: positive ones get the sign bit, of others all bits turn."""
    bits = np.ascontiguousarray(values).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _from_ordered(keys: NDArray[np.uint64]) -> NDArray[np.float64]:
    return np.where(keys & _SIGN, keys & ~_SIGN, ~keys).view(np.float64)


def _between(low: float, high: float, share: float) -> float:
    """Return the number at ``share`` of the way, exact at both ends."""
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share
