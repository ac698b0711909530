"""Which beams survive: a seeded model, so that a simulation without a language model can search by beams.

After generated token t, with probability min(1, c / (t + 1)), one beam drawn uniformly is replaced by a
copy of another draw (itself allowed). c is the ``divergence``: the larger, the more often beams replace one
another, the later they part, and the more they share. A constant rate cannot match both short and long
outputs: real beams settle on a common past, and the longer it is, the rarer it changes.

The draws are a hash of (seed, request, t), so they do not depend on the allocator, on preemptions or on
the order in which requests are served.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = 2**64 - 1


class SeededBeams:
    """Beam survival for all requests of a run.

    Args:
        seed: of the run.
        divergence: c, at least 0.
    """

    def __init__(self, seed: int, divergence: float = 25.0) -> None:
        self.seed = seed
        self.divergence = divergence

    def survive(self, request_id: int, num_generated: int, width: int) -> tuple[int, int] | None:
        """Return (beam that is replaced, beam that it continues) after token ``num_generated``, or None."""
        state = _mix(_mix(_mix(self.seed & _MASK) ^ request_id) ^ num_generated)
        if (state >> 11) * 2.0**-53 >= self.divergence / (num_generated + 1):
            return None
        draws = _mix(state)
        return (draws >> 32) * width >> 32, (draws & 0xFFFFFFFF) * width >> 32


def _mix(value: int) -> int:
    """Return the next number of SplitMix64 (Steele, Lea and Flood 2014) after the state ``value``."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
