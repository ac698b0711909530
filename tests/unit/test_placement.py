"""Where runs go: buddy, first fit and best fit, against a map of all blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.allocators.placement import PLACEMENTS, BestFit, Buddy, FirstFit, Placement
from tests.oracle.memory import Claim, Job, Runs, roots

FITS: list[Callable[[int], Placement]] = [FirstFit, BestFit]


def test_a_pool_that_is_no_power_of_two_is_its_binary_decomposition() -> None:
    buddy = Buddy(15_728)
    sizes = [8192, 4096, 2048, 1024, 256, 64, 32, 16]
    assert sum(sizes) == 15_728
    assert [1 << order for order in buddy.root_orders] == sizes
    assert buddy.roots == [0, 8192, 12288, 14336, 15360, 15616, 15680, 15712]
    assert buddy.largest_free_run() == 8192


def test_roots_of_the_papers_pool_hand_out_seven_maximal_runs() -> None:
    buddy = Buddy(15_728)
    runs = [buddy.place(2048) for _ in range(8)]
    # The smallest sufficient root comes first; then the one of 4096 is split, then the one of 8192.
    assert [run and run.start for run in runs] == [12288, 8192, 10240, 0, 2048, 4096, 6144, None]
    assert buddy.largest_free_run() == 1024


def test_buddy_rounds_up_to_the_next_power_of_two() -> None:
    buddy = Buddy(16)
    assert [buddy.place(size) for size in (3, 1, 5)] == [range(4), range(4, 5), range(8, 16)]
    assert buddy.largest_free_run() == 2


def test_buddy_merges_up_to_the_root_and_not_beyond() -> None:
    buddy = Buddy(12)  # 8 + 4
    runs = [buddy.place(4) for _ in range(3)]
    assert runs == [range(8, 12), range(4), range(4, 8)]
    for run in runs:
        assert run is not None
        buddy.release(run)
    assert buddy.largest_free_run() == 8
    assert buddy.place(9) is None
    assert buddy.place(8) == range(8)


def test_equal_roots_do_not_arise_and_neighbours_of_different_roots_never_merge() -> None:
    buddy = Buddy(3)  # 2 + 1
    assert [buddy.place(1), buddy.place(1), buddy.place(1)] == [range(2, 3), range(1), range(1, 2)]
    buddy.release(range(1, 2))
    buddy.release(range(2, 3))
    assert buddy.largest_free_run() == 1  # blocks 1 and 2 are adjacent, but belong to different roots
    assert buddy.place(2) is None


def test_buddy_splits_the_smallest_sufficient_chunk() -> None:
    buddy = Buddy(8)
    first, second = buddy.place(2), buddy.place(4)
    assert (first, second) == (range(2), range(4, 8))
    assert buddy.place(1) == range(2, 3)


def test_buddy_grows_in_place_into_free_upper_buddies() -> None:
    buddy = Buddy(16)
    run = buddy.place(2)
    assert run == range(2)
    assert buddy.extend(run, 2) is run
    assert buddy.extend(run, 3) == range(4)
    assert buddy.extend(range(4), 9) == range(16)
    assert buddy.largest_free_run() == 0


def test_buddy_does_not_grow_downwards_nor_past_a_held_buddy() -> None:
    buddy = Buddy(8)
    low, high = buddy.place(2), buddy.place(2)
    assert (low, high) == (range(2), range(2, 4))
    assert buddy.extend(range(2, 4), 4) is None
    assert buddy.extend(range(2), 4) is None
    buddy.release(range(2, 4))
    assert buddy.extend(range(2), 16) is None  # larger than its root
    assert buddy.extend(range(2), 4) == range(4)


def test_first_fit_takes_the_lowest_hole_and_best_fit_the_smallest() -> None:
    expected = {FirstFit: range(2), BestFit: range(9, 11)}
    for make, run in expected.items():
        placement = make(20)
        runs = [placement.place(size) for size in (4, 5, 3, 4, 2, 2)]
        assert runs == [range(4), range(4, 9), range(9, 12), range(12, 16), range(16, 18), range(18, 20)]
        placement.release(range(4))
        placement.release(range(9, 12))
        placement.release(range(18, 19))
        assert placement.place(2) == run
        assert placement.largest_free_run() == (3 if make is FirstFit else 4)


def test_best_fit_takes_the_lowest_of_equal_holes() -> None:
    placement = BestFit(5)
    for _ in range(5):
        placement.place(1)
    placement.release(range(3, 4))
    placement.release(range(1, 2))
    assert placement.place(1) == range(1, 2)


@pytest.mark.parametrize("make", FITS)
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_released_neighbours_merge_in_any_order(make: Callable[[int], Placement], order: tuple[int, ...]) -> None:
    placement = make(6)
    runs = [placement.place(2) for _ in range(3)]
    for index in order:
        run = runs[index]
        assert run is not None
        placement.release(run)
    assert placement.largest_free_run() == 6
    assert placement.place(6) == range(6)


@pytest.mark.parametrize("make", FITS)
def test_a_fit_grows_into_the_hole_right_behind(make: Callable[[int], Placement]) -> None:
    placement = make(10)
    assert [placement.place(2), placement.place(2), placement.place(2)] == [range(2), range(2, 4), range(4, 6)]
    assert placement.extend(range(2), 3) is None
    placement.release(range(2, 4))
    assert placement.extend(range(2), 5) is None
    assert placement.extend(range(2), 3) == range(3)
    assert placement.extend(range(3), 4) == range(4)
    assert placement.extend(range(4, 6), 7) is None
    assert placement.extend(range(4, 6), 6) == range(4, 10)
    assert placement.largest_free_run() == 0


@pytest.mark.parametrize("name", sorted(PLACEMENTS))
def test_an_empty_pool_places_nothing(name: str) -> None:
    placement = PLACEMENTS[name](0)
    assert placement.place(1) is None
    assert placement.largest_free_run() == 0


@pytest.mark.parametrize("num_blocks", [*range(1, 40), 15_728])
def test_roots_are_aligned_within_the_pool(num_blocks: int) -> None:
    buddy = Buddy(num_blocks)
    assert list(zip(buddy.roots, (1 << order for order in buddy.root_orders), strict=True)) == roots(num_blocks)


@pytest.mark.parametrize("name", sorted(PLACEMENTS))
@settings(max_examples=250)
@given(num_blocks=st.integers(1, 48), program=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 20)), max_size=60))
def test_a_placement_equals_a_map_of_all_blocks(name: str, num_blocks: int, program: list[tuple[int, int]]) -> None:
    """Place, grow and release; the model looks at every block each time."""
    placement: Placement = PLACEMENTS[name](num_blocks)
    model = Runs(num_blocks, 1, "oracle", name, max_model_len=0)
    runs: dict[Job, range] = {}
    for verb, size in program:
        holders = list(runs)
        if verb < 3 or not holders:
            found = model._find(size)
            run = placement.place(size)
            assert run == (None if found is None else range(found[0], sum(found)))
            if run is not None:
                job = Job(len(holders), 0, 1, 1, 1)
                runs[job] = run
                model.claims[job] = Claim(len(run), len(run), run.start)
        elif verb == 3:
            job = holders[size % len(holders)]
            grown = model._in_place(model.claims[job], size)
            run = placement.extend(runs[job], size)
            assert run == (None if grown is None else range(runs[job].start, runs[job].start + grown))
            if run is not None:
                runs[job] = run
                model.claims[job] = Claim(len(run), len(run), run.start)
        else:
            job = holders[size % len(holders)]
            placement.release(runs.pop(job))
            model.drop(job)
        assert placement.largest_free_run() == model.largest_run()
    for run in runs.values():
        placement.release(run)
    fresh = PLACEMENTS[name](num_blocks)
    assert placement.largest_free_run() == fresh.largest_free_run()
    assert [placement.place(1) for _ in range(num_blocks)] == [fresh.place(1) for _ in range(num_blocks)]
