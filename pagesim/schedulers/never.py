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
        self._answers: dict[tuple[int, int, int], bool] = {}

    def __call__(self, request: Request, num_tokens: int) -> bool:
        """Return whether admitting ``num_tokens`` of ``request`` can never succeed."""
        size = (num_tokens, request.estimate, request.output_tokens)
        if size not in self._answers:
            probe = Request(request.id, request.arrival, request.prompt_tokens, request.output_tokens)
            probe.estimate = probe.sequences[0].estimate = request.estimate
            probe.oracle = request.oracle
            self._answers[size] = self._twin().allocate(probe.sequences[0], num_tokens) is None
        return self._answers[size]
