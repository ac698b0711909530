"""Requests that are listed, and what steps cost in a run of them: for runs that may be served by numbers."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Listing

from pagesim.backend import Step, StepResult
from pagesim.blocks import Copy
from pagesim.sequence import Request


class Listed:
    """A source of requests that are there already; any of them can be had by its number.

    Args:
        requests: in the order of arrival.
        window: first and last tick of the measuring window; None: all are measured.

    Attributes:
        position, window, num_sequences, obstacle: as ``pagesim.sources.Numbered`` has them.
    """

    def __init__(self, requests: Listing[Request], window: tuple[int, int] | None = None) -> None:
        self.requests = list(requests)
        self.window = window
        self.position = 0
        self.num_sequences = max((len(request.sequences) for request in requests), default=1)
        self.obstacle = ""
        for request in requests:
            request.measured = window is None or window[0] <= request.arrival <= window[1]
            outputs = {sequence.num_output for sequence in request.sequences}
            is_plain = request.beams is None and request.prefix_group is None and len(outputs) == 1
            if not is_plain or len(request.sequences) != self.num_sequences:
                self.obstacle = "requests differ in more than their lengths"

    def __len__(self) -> int:
        return len(self.requests)

    def initial(self) -> Iterator[Request]:
        """Yield all from ``position`` on."""
        while self.position < len(self.requests):
            self.position += 1
            yield self.requests[self.position - 1]

    def after(self, request: Request, now: int) -> Request | None:
        """Nothing follows."""
        return None

    def numbers(self, begin: int, end: int) -> tuple[list[int], list[int], list[int]]:
        """Return arrivals, prompts and outputs."""
        chosen = self.requests[begin:end]
        return [r.arrival for r in chosen], [r.prompt_tokens for r in chosen], [r.output_tokens for r in chosen]

    def make(self, index: int) -> Request:
        """Return the request itself: whoever serves by numbers has not touched it yet."""
        return self.requests[index]


class Uneven:
    """A backend that says its tariff. Every count of a step tells in its duration, by a few ticks."""

    context_token = 1
    table_entry = 3

    def tariff(self) -> Uneven:
        """Return itself."""
        return self

    def decodes(self, num_decodes: int) -> tuple[int, int]:
        """Return (weights, overhead)."""
        return 2 * num_decodes, 1

    def prompts(self, chunks: Listing[tuple[int, int, int]], num_decodes: int) -> tuple[int, int, int]:
        """Return (prefill, recompute, overhead)."""
        return sum(size * (1 + stored) for stored, size, _ in chunks), sum(again for *_, again in chunks), 0

    def copies(self, num_blocks: int) -> int:
        """Return what copies add."""
        return 5 * num_blocks

    def execute(self, step: Step) -> StepResult:
        """Price a step."""
        chunks = [(chunk.sequence.num_stored, chunk.num_tokens, chunk.num_recomputed) for chunk in step.prefills]
        weights, overhead = self.decodes(step.num_decodes)
        prefill, recompute, _ = self.prompts(chunks, step.num_decodes)
        copies = self.copies(sum(op.num_blocks for op in step.ops if isinstance(op, Copy)))
        swaps = sum(2 * op.num_blocks for op in step.ops if not isinstance(op, Copy))
        overhead += self.table_entry * step.table_entries
        attention = self.context_token * step.context_tokens
        parts = (weights + step.padding_tokens, attention, prefill, recompute, copies, swaps, overhead)
        return StepResult(sum(parts), *parts)
