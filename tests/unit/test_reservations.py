"""How much a contiguous policy asks for, token by token."""

from __future__ import annotations

import pytest

from pagesim.allocators.contiguous import Contiguous
from pagesim.blocks import BlockPool
from pagesim.sequence import Request


@pytest.mark.parametrize(
    ("estimate", "asked"),
    [(0, 11), (1, 11), (2, 12), (3, 14), (4, 14), (5, 18), (8, 18), (9, 26), (16, 26), (17, 40), (90, 40)],
)
def test_pow2_rounds_the_estimate_of_the_output_up(estimate: int, asked: int) -> None:
    """A prompt of 10, and never more than 40 tokens: an estimate of 17 would be 10 + 32."""
    allocator = Contiguous(BlockPool(64, 1), 40, "pow2", "first_fit")
    sequence = Request(0, 0, 10, 30, estimate=estimate).sequences[0]
    assert allocator.allocate(sequence, 10) == []
    assert (sequence.num_asked, len(sequence.block_table)) == (asked, asked)


@pytest.mark.parametrize(("stored", "asked"), [(11, 12), (12, 14), (13, 14), (14, 18), (25, 26), (26, 40), (39, 40)])
def test_pow2_doubles_the_output_part_when_it_is_outrun(stored: int, asked: int) -> None:
    allocator = Contiguous(BlockPool(64, 1), 40, "pow2", "first_fit")
    sequence = Request(0, 0, 10, 30, estimate=1).sequences[0]
    assert allocator.allocate(sequence, 10) == []
    sequence.num_stored = stored
    assert allocator.allocate(sequence, 1) == [], "the neighbour is free: it grows where it is"
    assert sequence.num_asked == asked


def test_max_and_oracle_ask_once() -> None:
    for reserve, asked in (("max", 40), ("oracle", 10 + 30 - 1)):
        allocator = Contiguous(BlockPool(64, 1), 40, reserve, "best_fit")  # type: ignore[arg-type]
        request = Request(0, 0, 10, 30, estimate=3)
        request.oracle = allocator.oracle
        sequence = request.sequences[0]
        assert allocator.allocate(sequence, 10) == []
        sequence.num_stored = 38
        assert allocator.allocate(sequence, 1) == []
        assert (sequence.num_asked, len(sequence.block_table)) == (asked, asked)
