"""Whom to preempt when a running request cannot grow."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from typing import Protocol

from pagesim.sequence import Request


class Victim(Protocol):
    """Chooses one of the requests that have not been granted anything in this step."""

    def choose(self, candidates: Listing[Request]) -> Request:
        """Return one of ``candidates``, which are in the order of admission and never empty."""
        ...


class Youngest:
    """The latest arrival."""

    def choose(self, candidates: Listing[Request]) -> Request:
        """Return the request that arrived last."""
        return max(candidates, key=lambda request: (request.arrival, request.id))


class LeastComputed:
    """The one that loses the fewest stored tokens; the later arrival among equals."""

    def choose(self, candidates: Listing[Request]) -> Request:
        """Return the request with the fewest stored tokens."""
        return min(candidates, key=lambda request: (_stored(request), -request.arrival, -request.id))


class FewestOutputs:
    """The one that has generated the fewest tokens; the later arrival among equals."""

    def choose(self, candidates: Listing[Request]) -> Request:
        """Return the request with the fewest output tokens."""
        return min(candidates, key=lambda request: (_generated(request), -request.arrival, -request.id))


class LongestRemaining:
    """The one with the most tokens still to come: it has to know the future."""

    oracle = True

    def choose(self, candidates: Listing[Request]) -> Request:
        """Return the request with the most output tokens left."""
        return max(candidates, key=lambda request: (_remaining(request), request.arrival, request.id))


def _stored(request: Request) -> int:
    return sum(sequence.num_stored for sequence in request.sequences)


def _generated(request: Request) -> int:
    return sum(sequence.num_generated for sequence in request.sequences)


def _remaining(request: Request) -> int:
    return max(sequence.future.output_tokens - sequence.num_generated for sequence in request.sequences)
