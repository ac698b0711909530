"""Exactly full, exactly stored: the edges at which policies that page and share decide."""

from __future__ import annotations

import pytest

from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.blocks import BlockPool
from pagesim.sequence import Request, Sequence


def stored(allocator: Paged | CopyOnWrite, number: int, prompt: int, num_stored: int, group: int | None) -> Sequence:
    """Return a sequence that holds its prompt, of which a part is stored, and which begins with 4 shared tokens."""
    request = Request(number, 0, prompt, 9)
    if group is not None:
        request.prefix_group, request.prefix_tokens = group, 4
    sequence = request.sequences[0]
    assert allocator.allocate(sequence, prompt) is not None
    sequence.num_stored = num_stored
    return sequence


@pytest.mark.parametrize("policy", [Paged, CopyOnWrite, Swapping])
def test_a_full_table_gets_the_last_block(policy: type[Paged | CopyOnWrite]) -> None:
    allocator = policy(BlockPool(5, 2))
    first, other = (stored(allocator, number, 4, 4, None) for number in range(2))
    before = list(first.block_table), list(other.block_table)
    assert allocator.allocate(first, 1) == []
    assert allocator.pool.num_free == 0
    assert first.block_table[:2] == before[0]
    assert allocator.allocate(other, 1) is None, "INV-4"
    assert other.block_table == before[1]


@pytest.mark.parametrize("policy", [CopyOnWrite, Swapping])
@pytest.mark.parametrize(("num_stored", "matched"), [(3, 0), (4, 4), (5, 4)])
def test_a_pinned_prefix_stays_if_its_writer_leaves_when_all_of_it_is_stored(
    policy: type[CopyOnWrite], num_stored: int, matched: int
) -> None:
    allocator = policy(BlockPool(8, 2), pin_prefixes=True)
    writer = stored(allocator, 0, 7, num_stored, 5)
    allocator.free(writer)
    follower = Request(1, 0, 7, 9)
    follower.prefix_group, follower.prefix_tokens = 5, 4
    assert allocator.match(follower.sequences[0]) == matched
    assert allocator.pool.num_held == matched // 2
    allocator.release_pins()
    assert allocator.pool.num_held == 0


@pytest.mark.parametrize("policy", [CopyOnWrite, Swapping])
def test_a_prefix_stays_known_when_its_writer_starts_anew(policy: type[CopyOnWrite]) -> None:
    allocator = policy(BlockPool(12, 2))
    writer, first, second = (Request(number, 0, 7, 9) for number in range(3))
    for request in (writer, first, second):
        request.prefix_group, request.prefix_tokens = 5, 4
    assert allocator.allocate(writer.sequences[0], 7) == []
    assert allocator.match(first.sequences[0]) == 0, "nothing of it is stored yet"
    writer.sequences[0].num_stored = 7
    assert allocator.match(first.sequences[0]) == 4
    assert allocator.allocate(first.sequences[0], 7) == []
    allocator.free(writer.sequences[0])
    writer.sequences[0].num_stored = 0  # preempted, to be computed again
    assert allocator.match(second.sequences[0]) == 4
    assert allocator.match(writer.sequences[0]) == 4
    assert allocator.allocate(writer.sequences[0], 7) == []
    assert writer.sequences[0].block_table[:2] == first.sequences[0].block_table[:2]
