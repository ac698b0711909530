"""Arrival processes: rates, burstiness, exact ticks."""

from __future__ import annotations

import numpy as np
import pytest

from pagesim.errors import ConfigError
from pagesim.units import TICKS_PER_SECOND
from pagesim.workload import arrivals, stream
from pagesim.workload.arrivals import ClosedLoop, Constant, Gamma, OpenProcess, Poisson, Trace

COUNT = 100_000


def gaps(process: OpenProcess, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    ticks = process.sample(COUNT, stream(seed, "arrivals"))
    assert ticks.dtype == np.int64
    return np.diff(ticks, prepend=0) / TICKS_PER_SECOND


def test_poisson_has_its_rate_and_a_variation_of_one() -> None:
    found = gaps(Poisson(rate=4.0))
    assert found.mean() == pytest.approx(0.25, rel=0.01)
    assert found.std() / found.mean() == pytest.approx(1, rel=0.02)
    assert np.median(found) == pytest.approx(0.25 * np.log(2), rel=0.02)


def test_poisson_starts_with_a_gap() -> None:
    firsts = [int(Poisson(rate=1.0).sample(1, stream(seed, "arrivals"))[0]) for seed in range(2000)]
    assert min(firsts) > 0
    assert np.mean(firsts) / TICKS_PER_SECOND == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("cv", [0.25, 1.0, 3.0])
def test_gamma_has_its_rate_and_its_variation(cv: float) -> None:
    found = gaps(Gamma(rate=2.0, cv=cv))
    assert found.mean() == pytest.approx(0.5, rel=0.03)
    assert found.std() / found.mean() == pytest.approx(cv, rel=0.03)


def test_constant_gaps_are_equal_to_the_tick() -> None:
    assert Constant(rate=4.0).sample(3, stream(0, "arrivals")).tolist() == [250 * 10**9, 500 * 10**9, 750 * 10**9]
    assert set(np.diff(Constant(rate=3.0).sample(1000, stream(0, "arrivals")))) == {333_333_333_333}


def test_a_higher_rate_compresses_the_same_arrivals() -> None:
    slow, fast = (Poisson(rate=rate).sample(1000, stream(7, "arrivals")) for rate in (1.0, 8.0))
    # each gap is rounded to a tick
    assert np.abs(slow - 8 * fast).max() <= 1000 * 5


def test_recorded_arrivals_are_given_back() -> None:
    recorded = np.array([0, 0, 5, 9])
    assert Trace(recorded).sample(3, stream(0, "arrivals")).tolist() == [0, 0, 5]
    with pytest.raises(ValueError, match="has 4 arrivals, 5 are asked for"):
        Trace(recorded).sample(5, stream(0, "arrivals"))


def test_clients_think_equally_long() -> None:
    clients = ClosedLoop(num_clients=3, think_time=7).clients(5, stream(0, "think"))
    assert (clients.num_clients, clients.think_times.tolist()) == (3, [7] * 5)
    assert ClosedLoop(num_clients=1).clients(2, stream(0, "think")).think_times.tolist() == [0, 0]


def test_more_time_than_ticks_can_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"10 arrivals take 115.7 days; the longest .* is 106 days: raise the rate"):
        Constant(rate=1e-6).sample(10, stream(0, "arrivals"))
    last = Constant(rate=1e-6).sample(9, stream(0, "arrivals"))[-1]
    assert last == 9 * 10**6 * TICKS_PER_SECOND < arrivals.MAX_TICKS


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    for process in (Poisson, Constant):
        with pytest.raises(ConfigError, match="rate: must be above 0"):
            process(rate=rate)
    with pytest.raises(ConfigError, match="cv: must be above 0"):
        Gamma(rate=1.0, cv=rate)


@pytest.mark.parametrize(("num_clients", "think_time"), [(0, 0), (1, -1)])
def test_a_loop_that_is_none_is_refused(num_clients: int, think_time: int) -> None:
    with pytest.raises(ConfigError, match="a closed loop needs num_clients from 1 and think_time from 0"):
        ClosedLoop(num_clients, think_time)
