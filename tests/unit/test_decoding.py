"""Sequences that keep pace with the clock hold what asking for each of them would have given."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.account import NOTHING, Account
from pagesim.allocators.paged import Paged
from pagesim.blocks import BlockPool
from pagesim.errors import InvariantError
from pagesim.journal import GapHistogram
from pagesim.schedulers.decoding import Decoding
from pagesim.schedulers.memory import Memory
from pagesim.sequence import Request, Sequence


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), block_size=st.integers(1, 5))
def test_growth_by_counting_is_growth_by_asking(seed: int, block_size: int) -> None:
    """Sequences join at odd times, end, and leave early; one pool is counted, the other one is asked."""
    rng = Random(seed)
    counted, asked = Paged(BlockPool(400, block_size)), Paged(BlockPool(400, block_size))
    account = Account(counted.pool, 400 * block_size)
    memory = Memory(counted, account)
    decoding = Decoding(counted.pool, bulk=True, grows_by_block=True)
    twins: dict[Sequence, Sequence] = {}
    now = 0
    for number in range(60):
        for _ in range(rng.choice([0, 0, 1, 2])):
            prompt, output = rng.randint(1, 9), rng.randint(2, 30)
            sequence, twin = (Request(number, now, prompt, output).sequences[0] for _ in range(2))
            for each, allocator in ((sequence, counted), (twin, asked)):
                assert allocator.allocate(each, prompt + 1) == []
                each.num_stored, each.num_generated = prompt, 1
            account.change(NOTHING, account.held(sequence.request))
            decoding.join(sequence)
            twins[sequence] = twin
        for sequence in [each for each in twins if rng.random() < 0.03]:
            decoding.leave(sequence)
            assert len(sequence.block_table) == len(twins[sequence].block_table)
            memory.free(sequence.request)
            asked.free(twins.pop(sequence))
        if not twins:
            continue
        assert decoding.promise_due(memory)
        for twin in twins.values():
            assert asked.allocate(twin, 1) == []
        walked = Account(counted.pool, 400 * block_size)
        for sequence, twin in twins.items():
            assert sequence.num_blocks == len(twin.block_table)
            if rng.random() < 0.2:  # to look changes nothing
                assert len(set(sequence.block_table)) == len(twin.block_table)
            walked.change(NOTHING, walked.held(sequence.request))
        assert counted.pool.num_held == asked.pool.num_held == decoding.num_entries
        assert (account.useful, account.internal) == (walked.useful, walked.internal)
        assert account.references == walked.references
        now += 7
        account.live += len(twins)
        for sequence in decoding.tick(now, GapHistogram()):
            twin = twins.pop(sequence)
            decoding.leave(sequence)
            memory.free(sequence.request)
            asked.free(twin)
        for twin in twins.values():
            twin.num_stored += 1
    for sequence in twins:
        decoding.leave(sequence)
        memory.free(sequence.request)
    assert (counted.pool.num_held, counted.pool.num_promised, account.references) == (0, 0, 0)


def test_where_not_all_have_room_nothing_has_changed_and_all_are_named() -> None:
    allocator = Paged(BlockPool(3, 2))
    memory = Memory(allocator, Account(allocator.pool, 6))
    decoding = Decoding(allocator.pool, bulk=True, grows_by_block=True)
    sequences = [Request(number, 0, 1, 9).sequences[0] for number in range(2)]
    for sequence in sequences:
        assert allocator.allocate(sequence, 2) == []
        sequence.num_stored = sequence.num_generated = 1
        decoding.join(sequence)
    assert decoding.promise_due(memory)
    decoding.tick(5, GapHistogram())
    assert not decoding.promise_due(memory)
    assert (allocator.pool.num_free, allocator.pool.num_promised, decoding.num_entries) == (1, 0, 2)
    assert decoding.due() == sequences


def test_a_token_without_room_is_an_error() -> None:
    allocator = Paged(BlockPool(3, 2))
    decoding = Decoding(allocator.pool, bulk=True, grows_by_block=True)
    sequence = Request(0, 0, 1, 9).sequences[0]
    assert allocator.allocate(sequence, 2) == []
    sequence.num_stored = sequence.num_generated = 1
    decoding.join(sequence)
    decoding.tick(5, GapHistogram())
    with pytest.raises(InvariantError, match=r"plan without growth\.grow"):
        decoding.tick(6, GapHistogram())
