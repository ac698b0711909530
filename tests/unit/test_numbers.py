"""Mean and percentiles of numbers that are read in chunks: exact, and what numpy says of all at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagesim import rows
from pagesim.numbers import Numbers

FLOATS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1.5, 1e-12]))
QUANTILES = (0, 1, 50, 90, 99, 100)


def numbers(*chunks: list[float]) -> Numbers:
    found = Numbers()
    for chunk in chunks:
        found.extend(np.array(chunk, dtype=np.float64))
    return found


@given(values=st.lists(FLOATS, min_size=1, max_size=60), cut=st.integers(0, 60))
def test_percentiles_are_those_of_numpy_whatever_the_chunks(values: list[float], cut: int) -> None:
    with np.errstate(all="ignore"):
        expected = np.percentile(np.array(values), QUANTILES).tolist()
    found = numbers(values[:cut], values[cut:]).percentiles(QUANTILES)
    assert [repr(value) for value in found] == [repr(value) for value in expected] or found == expected


@given(values=st.lists(st.floats(0, 1e9), min_size=1, max_size=60), cut=st.integers(0, 60), order=st.randoms())
def test_the_mean_does_not_depend_on_order_or_chunks(values: list[float], cut: int, order: Any) -> None:
    mean = numbers(values[:cut], values[cut:]).mean()
    assert mean == math.fsum(values) / len(values)
    order.shuffle(values)
    assert numbers(values).mean() == mean


def test_more_numbers_than_are_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 1 << 10)
    values = np.random.default_rng(1).lognormal(0, 3, 10_000).round(2)
    found = Numbers()
    for part in np.array_split(values, 7):
        found.extend(part)
    assert len(found) == 10_000
    assert found.percentiles(QUANTILES) == np.percentile(values, QUANTILES).tolist()
    assert found.mean() == math.fsum(values.tolist()) / 10_000


def test_what_is_missing_is_left_out() -> None:
    found = numbers([3.0, math.nan, 1.0], [math.nan])
    assert (len(found), found.mean(), found.percentiles([50])) == (2, 2.0, [2.0])


def test_of_nothing_there_is_no_mean_and_no_percentile() -> None:
    found = numbers([math.nan], [])
    assert (len(found), found.mean(), found.percentiles([50, 99])) == (0, None, [None, None])
