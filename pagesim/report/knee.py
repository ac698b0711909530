"""How much load an allocator sustains: the knee of its latency."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

from pagesim.report.panels import points_along
from pagesim.report.rows import Rows

LATENCY: Final = "normalized_latency_s_per_token"
LIMIT: Final = 0.1
"""Seconds a token: below it, users read no faster than the server writes; above it, the line is steep anyway."""


def knee(loads: Sequence[float], latencies: Sequence[float], limit: float = LIMIT) -> float:
    """Return the largest load up to which the latency stays below a limit.

    Between two loads the logarithm of the latency is taken as a straight line. Infinite if the limit is never
    reached, NaN if already the smallest load is not below it.

    Args:
        loads: ascending.
        latencies: in seconds a token, one a load, all above 0.
        limit: in seconds a token.
    """
    pairs = [(x, y) for x, y in zip(loads, latencies, strict=True) if math.isfinite(y)]
    if not pairs or pairs[0][1] >= limit:
        return math.nan
    for (low, below), (high, above) in itertools.pairwise(pairs):
        if above >= limit:
            return low + (high - low) * math.log(limit / below) / math.log(above / below)
    return math.inf


def knees(rows: Rows, key: str, limit: float = LIMIT) -> dict[str, float]:
    """Return the knee of each allocator along a swept load, over the means of the seeds."""
    points, loads = points_along(rows, key)
    if loads is None:
        return {}
    return {name: knee(loads, [rows.mean(point, name, LATENCY) for point in points], limit) for name in rows.names}
