"""The counts that explain the speed: the same on every machine, so a change that costs more is seen."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from tests.benchmark.engine import Case, Timing, execute

SATURATED = Case("paged", "chunked", "saturation", 300)


def work(timing: Timing) -> tuple[int, int]:
    """Return what both engines have to do."""
    return timing.iterations, timing.output_tokens


@pytest.mark.parametrize("scheduler", ["chunked", "mixed", "prefill_first"])
@pytest.mark.parametrize(
    ("allocator", "load"),
    [
        *itertools.product(["paged", "copy_on_write", "swapping"], ["saturation", "overload"]),
        *itertools.product(["paged", "copy_on_write"], ["scarce"]),  # what is swapped goes through the queues
    ],
)
def test_policies_that_count_blocks_are_not_called(allocator: str, load: str, scheduler: str) -> None:
    fast = execute(Case(allocator, scheduler, load, 300))
    assert fast.path.startswith("100.00% of the steps by numbers: blocks counted")
    assert (fast.allocator_calls, fast.plans) == (0, 1)  # the one plan finds nothing left to do
    assert fast.events <= 5


def test_both_engines_do_the_same_work_and_one_of_them_step_by_step() -> None:
    fast, stepwise = execute(SATURATED), execute(replace(SATURATED, fast_forward=False))
    assert work(fast) == work(stepwise)
    assert stepwise.plans >= stepwise.iterations
    assert stepwise.events >= stepwise.iterations + 300
    assert stepwise.allocator_calls >= 2 * 300


@pytest.mark.parametrize("allocator", ["max", "pow2", "oracle"])
def test_policies_that_place_runs_are_asked_where_a_request_comes_and_goes(allocator: str) -> None:
    fast = execute(Case(allocator, "chunked", "saturation", 300))
    assert fast.path.startswith("100.00% of the steps by numbers: Contiguous asked")
    assert fast.plans == 1
    # Asked once to come in and once to go; again each time that a block has become free while it was refused.
    assert fast.allocator_calls / 300 < 3


def test_swapping_uses_numbers_between_swaps() -> None:
    fast = execute(Case("swapping", "chunked", "scarce", 300))
    stepwise = execute(Case("swapping", "chunked", "scarce", 300, fast_forward=False))
    assert work(fast) == work(stepwise)
    assert fast.plans < stepwise.plans


def test_parallel_samples_are_counted() -> None:
    fast = execute(Case("copy_on_write", "chunked", "saturation", 75, 4))
    assert (fast.allocator_calls, fast.plans) == (0, 1)


def test_what_cannot_be_told_in_numbers_skips_the_queues_where_it_can() -> None:
    static = execute(Case("paged", "static", "low", 50))
    assert "Static does not say `walk`" in static.path
    assert static.plans / static.iterations < 0.05
