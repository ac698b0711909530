"""When requests come, by the experiment's ``arrivals`` part: arrivals in chunks, or clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagesim import plugins
from pagesim.config import WorkloadConfig
from pagesim.errors import PluginError, TraceError
from pagesim.workload.arrivals import ClosedProcess, Gaps, OpenProcess, Trace, check_span, cumulate, draws_gaps
from pagesim.workload.asked import ask, check_chunks, integers, options_of
from pagesim.workload.data import CHUNK, ClosedLoop, marks_of, tenth
from pagesim.workload.streams import stream
from pagesim.workload.traces import TraceRows

TakeArrivals = Callable[[int, int], NDArray[np.int64]]
"""Gives arrivals from one request up to another; each call goes on where the last one ended."""


@dataclass(frozen=True)
class Timing:
    """When requests come: what begins to draw arrivals, and what is known of them; or clients instead."""

    arrivals: Callable[[], TakeArrivals]
    marks: tuple[int, int, int] | None = None
    closed_loop: ClosedLoop | None = None


def timing_of(config: WorkloadConfig, count: int, seed: int, base_dir: Path, trace: TraceRows | None) -> Timing:
    """Return when the ``count`` requests of a run come, of a trace or not.

    Raises ConfigError, PluginError or TraceError where that cannot be known.
    """
    name = "trace" if config.arrivals is None else config.arrivals.process
    options = {} if config.arrivals is None else options_of(config.arrivals, "process")
    cls = plugins.resolve("arrivals", name, base_dir)
    if trace is not None and plugins.accepts(cls, "recorded"):
        if not trace.has_times:
            raise TraceError(
                f"{trace.path}: has no arrival times; give workload.arrivals, such as {{process: poisson, rate: 1}}"
            )
        if cls is Trace:  # as they stand: nothing has to be asked
            place, last = tenth(count), count - 1
            first, tenth_, last = (int(trace.arrivals_of(at, at + 1)[0]) for at in (0, place, last))
            return Timing(lambda: trace.arrivals_of, (first, tenth_, last))
        options["recorded"] = trace.arrivals
    process = plugins.build(cls, **options)
    if isinstance(process, ClosedProcess):
        answer = ask(process.clients, count, stream(seed, "think"))
        return Timing(lambda: _no_arrivals, closed_loop=_clients(cls.__name__, answer, count))
    if not isinstance(process, OpenProcess):
        raise PluginError(f"arrivals {name!r}: {cls.__name__} has neither sample nor clients(count, rng)")
    if draws_gaps(process):
        gaps = GapArrivals(process, seed)
        marks = gaps.marks(count)
        check_chunks(f"{cls.__name__}.gaps", process.gaps)
        return Timing(gaps.start, marks)
    ticks = integers(f"{cls.__name__}.sample", ask(process.sample, count, stream(seed, "arrivals")), count)
    if count and (ticks[0] < 0 or (np.diff(ticks) < 0).any()):
        raise PluginError(f"{cls.__name__}.sample: arrivals must be ticks from 0 that do not decrease")
    return Timing(lambda: lambda first, last: ticks[first:last], marks_of(ticks) if count else None)


@dataclass(frozen=True)
class GapArrivals:
    """Arrivals that are drawn gap by gap, each time anew.

    Attributes:
        process: draws the gaps.
        seed: of the run.
    """

    process: Gaps
    seed: int

    def start(self) -> TakeArrivals:
        """Return what gives arrivals."""
        rng, now = stream(self.seed, "arrivals"), 0

        def take(first: int, last: int) -> NDArray[np.int64]:
            nonlocal now
            ticks = cumulate(self._gaps(last - first, rng), now)
            if len(ticks):
                now = int(ticks[-1])
            return ticks

        return take

    def marks(self, count: int) -> tuple[int, int, int] | None:
        """Return the arrivals of the first request, of request ceil(0.1 N) and of the last; None without any.

        Raises ConfigError where they do not fit in an int64.
        """
        spans = [(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
        rng = stream(self.seed, "arrivals")
        check_span(sum(float(self._gaps(last - first, rng).sum()) for first, last in spans), count)
        take, place = self.start(), tenth(count)
        found: dict[int, int] = {}
        for first, last in spans:
            ticks = take(first, last)
            found |= {at: int(ticks[at - first]) for at in (0, place, count - 1) if first <= at < last}
        return (found[0], found[place], found[count - 1]) if count else None

    def _gaps(self, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return gaps. Raises PluginError where they are none: the process may be a user's."""
        if not count:
            return np.empty(0)
        try:
            gaps: NDArray[np.float64] = np.asarray(ask(self.process.gaps, count, rng), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise PluginError(f"{type(self.process).__name__}.gaps: must be numbers of seconds: {error}") from None
        if gaps.shape != (count,) or not (gaps >= 0).all():
            raise PluginError(f"{type(self.process).__name__}.gaps: must be {count} numbers of seconds from 0")
        return gaps


def _no_arrivals(first: int, last: int) -> NDArray[np.int64]:
    return np.empty(0, dtype=np.int64)


def _clients(name: str, found: Any, count: int) -> ClosedLoop:
    if not isinstance(found, ClosedLoop) or found.num_clients < 1:
        raise PluginError(f"{name}.clients: must return a pagesim.workload.ClosedLoop with one client or more")
    think_times = integers(f"{name}.clients: think_times", found.think_times, count)
    if count and think_times.min() < 0:
        raise PluginError(f"{name}.clients: think_times must be ticks from 0")
    return ClosedLoop(found.num_clients, think_times)
