"""Telling "not now" from "never": the same policy is asked over an empty pool."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Listing

from pagesim.allocators.base import Allocator
from pagesim.sequence import Request, Sequence


class Never:
    """Answers whether an empty pool would refuse the prompts of a request too.

    Args:
        twin: makes the same allocator over an empty pool.
    """

    def __init__(self, twin: Callable[[], Allocator]) -> None:
        self._twin = twin
        self._spare: Allocator | None = None  # one that is empty again
        self._answers: dict[tuple[tuple[int, int, int], ...], bool] = {}
        self._probes: dict[int, Request] = {}

    def __call__(self, sequences: Listing[Sequence]) -> bool:
        """Return whether admitting ``sequences``, all of one request, can never succeed."""
        sizes = tuple((sequence.num_prefill, sequence.estimate, sequence.num_output) for sequence in sequences)
        if sizes not in self._answers:
            # A policy may keep something from before, so only a fresh one can say never.
            self._answers[sizes] = not (self._admits(self._spare, sequences) or self._admits(self._twin(), sequences))
        return self._answers[sizes]

    def _admits(self, allocator: Allocator | None, sequences: Listing[Sequence]) -> bool:
        if allocator is None:
            return False
        probes = self._probe(sequences)
        for probe, sequence in zip(probes, sequences, strict=True):
            if allocator.allocate(probe, sequence.num_prefill) is None:
                return False
        for probe in probes:
            allocator.free(probe)
        self._spare = None if allocator.pool.num_held else allocator
        return True

    def _probe(self, sequences: Listing[Sequence]) -> list[Sequence]:
        """Return sequences of the same sizes that hold nothing."""
        request, count = sequences[0].request, len(sequences)
        probe = self._probes.get(count)
        if probe is None or any(sequence.block_table for sequence in probe.sequences):
            probe = self._probes[count] = Request(0, 0, 1, 1, count)
        probe.id, probe.arrival, probe.oracle = request.id, request.arrival, request.oracle
        probe.prompt_tokens, probe.output_tokens = request.prompt_tokens, request.output_tokens
        for copy, sequence in zip(probe.sequences, sequences, strict=True):
            copy.num_output, copy.estimate = sequence.num_output, sequence.estimate
        return probe.sequences
