"""When requests arrive. One process a class; ``module:Class`` in an experiment is built and asked the same way.

An open process has ``sample``, a closed one has ``clients``:

    class Waves:
        def __init__(self, rate: float) -> None: ...
        def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]: ...

A class that takes the keyword ``recorded`` is given the arrivals of the workload's trace.

A process whose gaps are independent of one another may draw them alone, in ``gaps``: it is then asked for some
requests at a time, and their arrivals are never all in memory.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pagesim.errors import ConfigError
from pagesim.units import TICKS_PER_SECOND
from pagesim.workload.data import ClosedLoop as Clients

MAX_TICKS: Final = 2**63 - 1


@runtime_checkable
class OpenProcess(Protocol):
    """Requests arrive whatever the server does."""

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) ticks, non-decreasing, from 0. A larger count starts with the same ones."""
        ...


@runtime_checkable
class Gaps(Protocol):
    """Requests arrive at independent gaps."""

    def gaps(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return (count,) gaps in seconds, the first one before the first request.

        Two calls with one generator give what one call gives; ``sample`` is their sum, tick for tick.
        """
        ...


@runtime_checkable
class ClosedProcess(Protocol):
    """Each client waits for its answer before it sends its next request."""

    def clients(self, count: int, rng: np.random.Generator) -> Clients:
        """Return the clients, and the think time before each of ``count`` requests."""
        ...


class Poisson:
    """Independent gaps, exponentially distributed; the first request comes after the first gap.

    Args:
        rate: requests per second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = _positive("rate", rate)

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) ticks."""
        return cumulate(self.gaps(count, rng))

    def gaps(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return (count,) gaps in seconds."""
        return rng.standard_exponential(count) / self.rate


class Gamma:
    """Independent gaps, gamma distributed: burstier than Poisson where cv is above 1, more regular below.

    Args:
        rate: requests per second.
        cv: standard deviation of a gap over its mean.
    """

    def __init__(self, rate: float, cv: float) -> None:
        self.rate = _positive("rate", rate)
        self.cv = _positive("cv", cv)

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) ticks."""
        return cumulate(self.gaps(count, rng))

    def gaps(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return (count,) gaps in seconds."""
        shape = 1 / self.cv**2
        return rng.standard_gamma(shape, count) / (shape * self.rate)


class Constant:
    """Equal gaps; the first request comes after the first gap.

    Args:
        rate: requests per second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = _positive("rate", rate)

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) ticks; nothing is drawn."""
        return cumulate(self.gaps(count, rng))

    def gaps(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return (count,) gaps in seconds; nothing is drawn."""
        return np.full(count, 1 / self.rate)


class Trace:
    """The arrivals that the workload's trace has recorded.

    Args:
        recorded: ticks, non-decreasing.
    """

    def __init__(self, recorded: NDArray[np.int64]) -> None:
        self.recorded = recorded

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the first ``count`` ticks; nothing is drawn."""
        if count > len(self.recorded):
            raise ValueError(f"the trace has {len(self.recorded)} arrivals, {count} are asked for")
        return self.recorded[:count]


class ClosedLoop:
    """Clients that send their next request a think time after their last has ended.

    Args:
        num_clients: how many there are.
        think_time: ticks.
    """

    def __init__(self, num_clients: int, think_time: int = 0) -> None:
        if num_clients < 1 or think_time < 0:
            raise ConfigError(
                f"a closed loop needs num_clients from 1 and think_time from 0, not {num_clients} and {think_time}"
            )
        self.num_clients = num_clients
        self.think_time = think_time

    def clients(self, count: int, rng: np.random.Generator) -> Clients:
        """Return the clients with equal think times; nothing is drawn."""
        return Clients(self.num_clients, np.broadcast_to(np.int64(self.think_time), count))


def _positive(key: str, value: float) -> float:
    if not 0 < value < np.inf:
        raise ConfigError(f"{key}: must be above 0, is {value}")
    return value


def draws_gaps(process: object) -> TypeGuard[Gaps]:
    """Return whether a process draws its gaps alone; a subclass that says nothing of them may sample otherwise."""
    return isinstance(process, Gaps) and "gaps" in vars(type(process))


def check_span(total: float, count: int) -> None:
    """Raise ConfigError where ``count`` gaps of ``total`` seconds in all do not fit in an int64 of ticks."""
    # a margin for the rounding of the gaps and of their sum
    if not total * TICKS_PER_SECOND < MAX_TICKS * (1 - 1e-9):
        raise ConfigError(
            f"{count} arrivals take {total / 86_400:.4g} days; the longest time that can be simulated is 106 days: "
            "raise the rate or lower num_requests"
        )


def cumulate(gaps: NDArray[np.float64], start: int = 0) -> NDArray[np.int64]:
    """Return the ticks at which gaps in seconds end: each gap rounded to a tick, then summed exactly.

    Args:
        gaps: (count,), from 0.
        start: tick at which the first one begins.

    Raises ConfigError where they do not fit in an int64.
    """
    check_span(float(gaps.sum()), len(gaps))
    ticks: NDArray[np.int64] = start + np.cumsum(np.rint(gaps * TICKS_PER_SECOND).astype(np.int64))
    return ticks
