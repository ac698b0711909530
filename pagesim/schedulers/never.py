"""Telling "not now" from "never": the same policy is asked over an empty pool."""

from __future__ import annotations

from collections.abc import Callable

from pagesim.allocators.base import Allocator
from pagesim.sequence import Request


class Never:
    """Answers whether an empty pool would refuse a request too.

    Args:
        twin: makes the same allocator over an empty pool.
    """

    def __init__(self, twin: Callable[[], Allocator]) -> None:
        self._twin = twin
        self._spare: Allocator | None = None  # one that is empty again
        self._answers: dict[tuple[int, int, int], bool] = {}

    def __call__(self, request: Request, num_tokens: int) -> bool:
        """Return whether admitting ``num_tokens`` of ``request`` can never succeed."""
        size = (num_tokens, request.estimate, request.output_tokens)
        if size not in self._answers:
            probe = Request(request.id, request.arrival, request.prompt_tokens, request.output_tokens)
            probe.estimate = probe.sequences[0].estimate = request.estimate
            probe.oracle = request.oracle
            # A policy may keep something from before, so only a fresh one can say never.
            self._answers[size] = not (
                self._admits(self._spare, probe, num_tokens) or self._admits(self._twin(), probe, num_tokens)
            )
        return self._answers[size]

    def _admits(self, allocator: Allocator | None, probe: Request, num_tokens: int) -> bool:
        sequence = probe.sequences[0]
        if allocator is None or allocator.allocate(sequence, num_tokens) is None:
            return False
        allocator.free(sequence)
        self._spare = allocator if not allocator.pool.num_held else None
        return True
