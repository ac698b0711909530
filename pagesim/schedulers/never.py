"""Telling "not now" from "never": the same policy is asked over an empty pool."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Listing
from typing import Final

from pagesim.allocators.base import Allocator
from pagesim.promises import says
from pagesim.sequence import Request, Sequence


class Never:
    """Answers whether an empty pool would refuse the prompts of a request too.

    Args:
        twin: makes the same allocator over an empty pool.
    """

    MOST_ANSWERS: Final = 4096

    def __init__(self, twin: Callable[[], Allocator]) -> None:
        self._twin = twin
        self._spare: Allocator | None = None  # one that is empty again
        self._answers: dict[tuple[tuple[int, int, int], ...], bool] = {}
        self._probes: dict[int, Request] = {}
        self._admitted: list[tuple[int, int, int]] = []  # sizes, none of which is within another

    def __call__(self, sequences: Listing[Sequence]) -> bool:
        """Return whether admitting ``sequences``, all of one request, can never succeed."""
        sizes = tuple((sequence.num_prefill, sequence.estimate, sequence.num_output) for sequence in sequences)
        # After a preemption a prompt is longer than its request's: then only the very same sizes are alike.
        is_plain = len(sizes) == 1 and sizes[0][0] == sequences[0].request.prompt_tokens
        if is_plain and self._is_within_admitted(sizes[0]):
            return False
        if sizes not in self._answers:
            if len(self._answers) >= self.MOST_ANSWERS:
                self._answers.clear()  # nearly every request of a long run has a size of its own
            # A policy may keep something from before, so only a fresh one can say never.
            self._answers[sizes] = not (self._admits(self._spare, sequences) or self._admits(self._twin(), sequences))
            if is_plain and not self._answers[sizes] and says(self._spare, "admits_smaller", "allocate"):
                outer = [admitted for admitted in self._admitted if not _is_within(admitted, sizes[0])]
                self._admitted = [*outer, sizes[0]]
        return self._answers[sizes]

    def _is_within_admitted(self, sizes: tuple[int, int, int]) -> bool:
        """Return whether something at least as large in every way has been admitted."""
        for place, admitted in enumerate(self._admitted):
            if _is_within(sizes, admitted):
                if place:  # what was large enough once will be so again
                    self._admitted.insert(0, self._admitted.pop(place))
                return True
        return False

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


def _is_within(sizes: tuple[int, int, int], admitted: tuple[int, int, int]) -> bool:
    return sizes[0] <= admitted[0] and sizes[1] <= admitted[1] and sizes[2] <= admitted[2]
