"""How long prompts and outputs are. One distribution a class; users plug in theirs the same way.

A distribution is built from the keys of the experiment file and has ``sample(count, rng)``. One that also says
``in_chunks = True`` is asked for some requests at a time: two samples with one generator are then what one sample of
both counts is. Others are asked once, for all requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pagesim.errors import ConfigError

MAX_TOKENS: Final = 10**9
"""Longer lengths are cut to this: no model reads more, and int64 sums stay exact."""


class Lengths(Protocol):
    """Draws lengths in tokens."""

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) lengths from 1. A larger count starts with the same ones."""
        ...


class Bounds:
    """Smallest and largest length: what is drawn beyond one of them becomes it.

    Args:
        low: smallest length; 1 by default.
        high: largest length.
    """

    def __init__(self, low: int | None = None, high: int | None = None) -> None:
        self.low = 1 if low is None else low
        self.high = MAX_TOKENS if high is None else high
        if not 1 <= self.low <= self.high <= MAX_TOKENS:
            raise ConfigError(f"low and high: must be 1 <= low <= high <= {MAX_TOKENS}, are {self.low} and {self.high}")

    def apply(self, lengths: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return lengths as whole numbers within the bounds."""
        return np.rint(np.clip(lengths, self.low, self.high)).astype(np.int64)


class Lognormal:
    """Lognormal lengths: many short ones and a long tail.

    Args:
        mean: tokens, before rounding and bounds.
        cv: standard deviation over mean.
        low: smallest length; shorter ones become it.
        high: largest length; longer ones become it.
    """

    in_chunks = True

    def __init__(self, mean: float, cv: float, low: int | None = None, high: int | None = None) -> None:
        _check_moments(mean, cv)
        variance = math.log1p(cv**2)
        self.mu = math.log(mean) - variance / 2
        self.sigma = math.sqrt(variance)
        self.bounds = Bounds(low, high)

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) lengths."""
        with np.errstate(over="ignore"):
            return self.bounds.apply(np.exp(self.mu + self.sigma * rng.standard_normal(count)))


class Gamma:
    """Gamma distributed lengths: exponential where cv is 1.

    Args:
        mean: tokens, before rounding and bounds.
        cv: standard deviation over mean.
        low: smallest length; shorter ones become it.
        high: largest length; longer ones become it.
    """

    in_chunks = True

    def __init__(self, mean: float, cv: float, low: int | None = None, high: int | None = None) -> None:
        _check_moments(mean, cv)
        self.mean = mean
        self.cv = cv
        self.bounds = Bounds(low, high)

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) lengths."""
        if self.cv == 0:
            return self.bounds.apply(np.full(count, float(self.mean)))
        shape = 1 / self.cv**2
        return self.bounds.apply(rng.standard_gamma(shape, count) * (self.mean / shape))


class Uniform:
    """Every length from low to high is equally likely.

    Args:
        low: smallest length.
        high: largest length.
    """

    in_chunks = True

    def __init__(self, low: int, high: int) -> None:
        self.bounds = Bounds(low, high)

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) lengths."""
        low, high = self.bounds.low, self.bounds.high
        # one draw a length, so that a longer sample starts with the shorter one
        return low + np.floor(rng.random(count) * (high - low + 1)).astype(np.int64)


class Constant:
    """All lengths are equal.

    Args:
        value: the length in tokens.
    """

    in_chunks = True

    def __init__(self, value: int) -> None:
        self.value = Bounds(value, value).low

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) lengths; nothing is drawn."""
        return np.full(count, self.value, dtype=np.int64)


class Quantiles:
    """A table of quantiles, linear between its points.

    Args:
        quantiles: lengths, non-decreasing: the smallest, ..., the largest.
        probabilities: increasing from 0 to 1, as many; equally spaced by default.
        low: smallest length; shorter ones become it.
        high: largest length; longer ones become it.
    """

    in_chunks = True

    def __init__(
        self,
        quantiles: Sequence[float],
        probabilities: Sequence[float] | None = None,
        low: int | None = None,
        high: int | None = None,
    ) -> None:
        self.quantiles = _numbers("quantiles", quantiles)
        if probabilities is None:
            self.probabilities = np.linspace(0, 1, len(self.quantiles))
        else:
            self.probabilities = _numbers("probabilities", probabilities)
        if len(self.quantiles) < 2 or len(self.probabilities) != len(self.quantiles):
            raise ConfigError(
                f"quantiles and probabilities: must be two or more, and as many of both; are {len(self.quantiles)} "
                f"and {len(self.probabilities)}"
            )
        if (np.diff(self.quantiles) < 0).any() or self.quantiles[0] < 1:
            raise ConfigError("quantiles: must be lengths from 1 that do not decrease")
        if (np.diff(self.probabilities) <= 0).any() or self.probabilities[0] != 0 or self.probabilities[-1] != 1:
            raise ConfigError("probabilities: must increase from 0 to 1")
        self.bounds = Bounds(low, high)

    @property
    def mean(self) -> float:
        """Mean in tokens, before rounding and bounds."""
        middles = (self.quantiles[1:] + self.quantiles[:-1]) / 2
        return float((np.diff(self.probabilities) * middles).sum())

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) lengths."""
        return self.at(rng.random(count))

    def at(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the lengths at these probabilities."""
        return self.bounds.apply(np.interp(probabilities, self.probabilities, self.quantiles))


def draws_in_chunks(lengths: Lengths) -> bool:
    """Return whether a distribution says ``in_chunks``; a subclass that does not may sample otherwise."""
    return bool(vars(type(lengths)).get("in_chunks", False))


def _check_moments(mean: float, cv: float) -> None:
    if not 0 < mean < np.inf or not 0 <= cv < np.inf:
        raise ConfigError(f"mean must be above 0 and cv at least 0, not {mean} and {cv}")


def _numbers(key: str, values: Sequence[float]) -> NDArray[np.float64]:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ConfigError(f"{key}: must be a list of numbers")
    return numbers
