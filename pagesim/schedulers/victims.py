"""Whom to preempt when a running request cannot grow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Listing
from typing import ClassVar, Protocol

from pagesim.sequence import Request


class Victim(Protocol):
    """Chooses one of the requests that have not been granted anything in this step."""

    def choose(self, candidates: Listing[Request]) -> Request:
        """Return one of ``candidates``, which are in the order of admission and never empty."""
        ...


class Ranked(ABC):
    """The candidate of the highest rank; the latest arrival among equals.

    A policy of this kind decides by three numbers of a request, so it can be asked without the request.
    """

    oracle: ClassVar[bool] = False

    def choose(self, candidates: Listing[Request]) -> Request:
        """Return the candidate of the highest rank."""
        return max(candidates, key=lambda request: (self._rank(request), request.arrival, request.id))

    @abstractmethod
    def rank(self, num_stored: int, num_generated: int, num_left: int) -> int:
        """Return the rank of a request from its stored and its generated tokens, summed over its sequences.

        ``num_left``: tokens to come of its longest sequence, for oracles; 0 for others.
        """

    def _rank(self, request: Request) -> int:
        left = max(s.future.output_tokens - s.num_generated for s in request.sequences) if self.oracle else 0
        return self.rank(
            sum(sequence.num_stored for sequence in request.sequences),
            sum(sequence.num_generated for sequence in request.sequences),
            left,
        )


class Youngest(Ranked):
    """The latest arrival."""

    def rank(self, num_stored: int, num_generated: int, num_left: int) -> int:
        """All are alike but for their arrival."""
        return 0


class LeastComputed(Ranked):
    """The one that loses the fewest stored tokens."""

    def rank(self, num_stored: int, num_generated: int, num_left: int) -> int:
        """The fewer stored tokens, the higher."""
        return -num_stored


class FewestOutputs(Ranked):
    """The one that has generated the fewest tokens."""

    def rank(self, num_stored: int, num_generated: int, num_left: int) -> int:
        """The fewer output tokens, the higher."""
        return -num_generated


class LongestRemaining(Ranked):
    """The one with the most tokens still to come: it has to know the future."""

    oracle: ClassVar[bool] = True

    def rank(self, num_stored: int, num_generated: int, num_left: int) -> int:
        """The more tokens are left, the higher."""
        return num_left
