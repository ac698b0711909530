"""The block pool: reference counts, the floor, and what it refuses."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pagesim.blocks import BlockOps, BlockPool, Copy, SwapIn, SwapOut
from pagesim.errors import InvariantError


def test_a_new_pool_is_free() -> None:
    pool = BlockPool(5, 4, watermark=2)
    assert (pool.num_blocks, pool.block_size, pool.watermark, pool.floor) == (5, 4, 2, 0)
    assert (pool.num_free, pool.num_held, pool.ref_counts) == (5, 0, [0] * 5)
    assert pool.host is None


@pytest.mark.parametrize("sizes", [(-1, 4, 0), (4, 0, 0), (4, 4, -1)])
def test_sizes_that_make_no_sense_are_refused(sizes: tuple[int, int, int]) -> None:
    num_blocks, block_size, watermark = sizes
    with pytest.raises(ValueError, match="a pool of"):
        BlockPool(num_blocks, block_size, watermark=watermark)


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_blocks_for_rounds_up(tokens: int, blocks: int) -> None:
    assert BlockPool(1, 4).blocks_for(tokens) == blocks


def test_taken_blocks_are_distinct_and_have_one_reference() -> None:
    pool = BlockPool(6, 1)
    first, second = pool.take(2), pool.take(3)
    assert sorted({*first, *second}) == sorted(first + second)
    assert [pool.ref_counts[block] for block in first + second] == [1] * 5
    assert (pool.num_free, pool.num_held) == (1, 5)


def test_taking_nothing_changes_nothing() -> None:
    pool = BlockPool(0, 1)
    assert pool.take(0) == []
    assert pool.num_free == 0


def test_a_block_given_back_is_taken_again() -> None:
    pool = BlockPool(2, 1)
    first, second = pool.take(2)
    pool.give([first])
    assert pool.take(1) == [first]
    pool.give([second, first])
    assert sorted(pool.take(2)) == sorted([first, second])


def test_a_shared_block_is_free_after_its_last_reference() -> None:
    pool = BlockPool(1, 1)
    table = pool.take(1)
    pool.share(table)
    pool.share(table)
    assert pool.ref_counts == [3]
    generation = pool.generation
    pool.give(table)
    pool.give(table)
    assert (pool.num_free, pool.ref_counts, pool.generation) == (0, [1], generation)
    pool.give(table)
    assert (pool.num_free, pool.ref_counts) == (1, [0])
    assert pool.generation > generation


def test_the_floor_hides_free_blocks_from_takers() -> None:
    pool = BlockPool(4, 1, watermark=3)
    assert pool.num_free == 4  # the watermark itself holds nothing back
    pool.floor = pool.watermark
    assert pool.num_free == 1
    with pytest.raises(InvariantError, match="2 blocks taken where 1 are free"):
        pool.take(2)
    with pytest.raises(InvariantError, match="2 blocks taken where 1 are free"):
        pool.take_at(range(2))
    pool.take(1)
    assert pool.num_free == 0
    pool.floor = 9
    assert pool.num_free == 0
    pool.floor = 0
    assert pool.num_free == 3
    assert pool.num_held == 1


@pytest.mark.parametrize("count", [-1, 4])
def test_inv_4_taking_more_than_is_free_is_refused_and_changes_nothing(count: int) -> None:
    pool = BlockPool(3, 1)
    with pytest.raises(InvariantError, match="INV-4"):
        pool.take(count)
    assert (pool.num_free, pool.ref_counts) == (3, [0, 0, 0])


@pytest.mark.parametrize("run", [range(1, 3), range(2, 4), range(-1, 1), range(3, 5)])
def test_inv_3_a_run_over_held_or_missing_blocks_is_refused(run: range) -> None:
    pool = BlockPool(4, 1)
    pool.take_at(range(2, 3))
    with pytest.raises(InvariantError, match="INV-3"):
        pool.take_at(run)
    assert (pool.num_free, pool.ref_counts) == (3, [0, 0, 1, 0])


def test_inv_1_sharing_or_giving_a_free_block_is_refused() -> None:
    pool = BlockPool(2, 1)
    with pytest.raises(InvariantError, match="INV-1: block 1 is shared"):
        pool.share([1])
    with pytest.raises(InvariantError, match="INV-1: block 0 is given back"):
        pool.give([0])
    pool.take_at(range(1))
    with pytest.raises(InvariantError, match="INV-1: block 1 is given back"):
        pool.give(range(2))


def test_runs_and_single_blocks_come_from_the_same_pool() -> None:
    pool = BlockPool(4, 1)
    pool.take_at(range(1, 3))
    assert sorted(pool.take(2)) == [0, 3]
    pool.give(range(1, 3))
    assert sorted(pool.take(2)) == [1, 2]


def test_a_run_that_is_shared_is_given_back_one_reference_at_a_time() -> None:
    pool = BlockPool(3, 1)
    pool.take_at(range(2))
    pool.share(range(2))
    pool.give(range(2))
    assert (pool.ref_counts, pool.num_free) == ([1, 1, 0], 1)
    pool.give(range(2))
    assert (pool.ref_counts, pool.num_free) == ([0, 0, 0], 3)


def test_a_plan_keeps_the_order_of_its_moves() -> None:
    ops = BlockOps([Copy(0, 1), SwapOut(2, 0)])
    ops += [SwapIn(0, 3, 2)]
    assert ops == [Copy(0, 1, 1), SwapOut(2, 0, 1), SwapIn(0, 3, 2)]
    assert [type(op) for op in ops] == [Copy, SwapOut, SwapIn]


class PoolMachine(RuleBasedStateMachine):
    """Any mixture of calls against a multiset of references."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(7, 1, host=BlockPool(2, 1))
        self.references: Counter[int] = Counter()
        self.generation = 0

    def free(self) -> set[int]:
        return set(range(7)) - set(self.references)

    @rule(count=st.integers(0, 3))
    def take(self, count: int) -> None:
        free = self.free()
        if count > len(free):
            with pytest.raises(InvariantError):
                self.pool.take(count)
            return
        taken = self.pool.take(count)
        assert len(set(taken)) == len(taken) == count
        assert set(taken) <= free
        self.references.update(taken)

    @rule(start=st.integers(0, 6), size=st.integers(1, 3))
    def take_at(self, start: int, size: int) -> None:
        run = range(start, start + size)
        if set(run) <= self.free():
            self.pool.take_at(run)
            self.references.update(run)
        else:
            with pytest.raises(InvariantError):
                self.pool.take_at(run)

    @precondition(lambda self: self.references)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(sorted(self.references)), max_size=3))
        self.pool.share(blocks)
        self.references.update(blocks)

    @precondition(lambda self: self.references)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(sorted(self.references.elements())), unique=True, max_size=4))
        self.give_back(blocks, blocks)

    @precondition(lambda self: self.references)
    @rule(data=st.data())
    def give_run(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.references)))
        stop = start + 1
        while stop in self.references and data.draw(st.booleans()):
            stop += 1
        self.give_back(range(start, stop), list(range(start, stop)))

    def give_back(self, blocks: list[int] | range, gone: list[int]) -> None:
        generation = self.pool.generation
        self.pool.give(blocks)
        self.references -= Counter(gone)
        if set(gone) & self.free():
            assert self.pool.generation > generation

    @invariant()
    def inv_1_conservation(self) -> None:
        assert self.pool.ref_counts == [self.references[block] for block in range(7)]
        assert self.pool.num_free == len(self.free())
        assert self.pool.num_free + self.pool.num_held == 7
        assert self.pool.generation >= self.generation
        self.generation = self.pool.generation


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30)


def test_promised_blocks_are_held_and_get_numbers_when_somebody_asks() -> None:
    pool = BlockPool(5, 2)
    taken = pool.take(2)
    assert pool.promise(2)
    assert (pool.num_free, pool.num_held, pool.num_promised) == (1, 4, 2)
    assert sum(pool.ref_counts) == 2  # two more are held, nobody knows which
    assert not pool.promise(2)
    assert (pool.num_free, pool.num_promised) == (1, 2)
    numbered = pool.fulfil(2)
    assert (pool.num_free, pool.num_held, pool.num_promised) == (1, 4, 0)
    assert len({*taken, *numbered}) == 4
    pool.give([*taken, *numbered])
    assert (pool.num_free, pool.ref_counts) == (5, [0] * 5)


def test_no_more_is_numbered_than_was_promised() -> None:
    pool = BlockPool(3, 1)
    assert pool.promise(1)
    with pytest.raises(InvariantError, match="2 blocks numbered where 1 are promised"):
        pool.fulfil(2)


def test_nothing_is_promised_below_the_floor() -> None:
    pool = BlockPool(3, 1)
    pool.floor = 2
    assert not pool.promise(2)
    assert pool.promise(1)


def test_promises_are_kept_around_runs_that_a_placement_has_taken() -> None:
    pool = BlockPool(4, 1)
    assert pool.promise(2)
    pool.take_at(range(1, 3))
    assert sorted(pool.fulfil(2)) == [0, 3]


def test_references_of_one_block() -> None:
    pool = BlockPool(2, 1)
    (block,) = pool.take(1)
    assert (pool.references(block), pool.is_shared(block), pool.references(1 - block)) == (1, False, 0)
    pool.share([block])
    assert (pool.references(block), pool.is_shared(block)) == (2, True)
    pool.give([block])
    assert (pool.references(block), pool.is_shared(block)) == (1, False)
