"""What several seeds say about a ratio."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES: Final = 2000
RESAMPLING_SEED: Final = 20230917
"""Fixed, so that the same results give the same interval."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float

    @property
    def excludes_one(self) -> bool:
        """Whether the seeds tell the ratio from 1."""
        return self.low > 1 or self.high < 1


def ratio_interval(
    values: NDArray[np.float64], baseline: NDArray[np.float64], confidence: float = 0.95
) -> Interval | None:
    """Return the interval of mean(values) / mean(baseline) by a paired percentile bootstrap.

    The pairs (one a seed) are drawn with replacement, both sides together, for both saw the same requests
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

    Args:
        values, baseline: shape (seeds,), in the same order of seeds; pairs with a NaN are left out.
        confidence: that the interval is to have.

    Returns None with fewer than two pairs, or if a resampled baseline is 0.
    """
    there = ~(np.isnan(values) | np.isnan(baseline))
    values, baseline = values[there], baseline[there]
    if len(values) < 2:
        return None
    draws = np.random.default_rng(RESAMPLING_SEED).integers(0, len(values), (NUM_RESAMPLES, len(values)))
    below = baseline[draws].mean(axis=1)
    if not below.all():
        return None
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values[draws].mean(axis=1) / below, [tail, 100 - tail])
    return Interval(float(low), float(high))
