"""The counts that explain the speed: the same on every machine, so a change that costs more is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmark.engine import Case, Timing, execute

SATURATED = Case("paged", "chunked", "saturation", 300)


def counts(timing: Timing) -> tuple[int, int, int, int]:
    """Return what does not depend on the machine."""
    return timing.iterations, timing.output_tokens, timing.plans, timing.allocator_calls


@pytest.fixture(scope="module")
def saturated() -> Timing:
    return execute(SATURATED)


def test_both_engines_do_the_same_work(saturated: Timing) -> None:
    stepwise = execute(replace(SATURATED, fast_forward=False))
    assert counts(stepwise)[:2] == counts(saturated)[:2]
    assert stepwise.plans >= stepwise.iterations > 100 * saturated.plans
    assert stepwise.allocator_calls > 100 * saturated.allocator_calls


def test_the_queues_are_walked_a_few_times_a_request(saturated: Timing) -> None:
    assert saturated.plans / SATURATED.num_requests < 4


def test_the_allocator_is_asked_a_few_times_a_request(saturated: Timing) -> None:
    # Admission, the first decode, the end; the blocks in between come many at a time, except while memory is full.
    assert saturated.allocator_calls / SATURATED.num_requests < 7


def test_at_low_load_nearly_every_step_is_the_last_one_again() -> None:
    low = execute(Case("paged", "chunked", "low", 50))
    assert low.plans / low.iterations < 0.02
