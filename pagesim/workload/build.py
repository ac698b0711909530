"""From the experiment's ``workload`` part and a seed to the requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagesim.config import WorkloadConfig
from pagesim.workload.data import CHUNK, Chunk, Take, Workload
from pagesim.workload.drawn import TakeLengths, lengths_of
from pagesim.workload.lengths import MAX_TOKENS
from pagesim.workload.streams import stream
from pagesim.workload.timing import timing_of
from pagesim.workload.traces import read_trace

TakeSamples = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64] | None]
"""Gives the samples' lengths of the next requests, from their prompt and output lengths."""


def build_workload(config: WorkloadConfig, seed: int, base_dir: Path) -> Workload:
    """Return the requests of a run: the same for every allocator of an experiment.

    Each purpose draws from a stream of its own, so a change of the rate leaves the lengths as they are, and a
    larger ``num_requests`` starts with the same requests.

    Args:
        config: the experiment's part.
        seed: of the run.
        base_dir: the folder of the experiment file, where plug-ins and traces are looked up first.

    Raises:
        TraceError: the trace is missing or malformed.
        PluginError: a class that the experiment names cannot be had, built or asked.
        ConfigError: values that make no workload.
    """
    trace = None if config.trace is None else read_trace(config.trace, base_dir)
    count = (config.num_requests or 0) if trace is None else len(trace)
    if trace is None:
        name, lengths = lengths_of(config.lengths, count, seed, base_dir)
    else:
        name, lengths = trace.path.name, lambda: trace.lengths_of
    timing = timing_of(config, count, seed, base_dir, trace)
    samples = _samples(config, lengths, count, seed)

    def start() -> Take:
        take_lengths, take_arrivals, take_samples = lengths(), timing.arrivals(), samples()
        estimates, prefixes = stream(seed, "estimates"), stream(seed, "prefixes")

        def take(first: int, last: int) -> Chunk:
            prompts, outputs = take_lengths(first, last)
            return Chunk(
                first=first,
                prompt_tokens=prompts + config.prefix.tokens,
                output_tokens=outputs,
                estimates=_estimates(outputs, config.estimate.cv, estimates),
                arrivals=None if timing.closed_loop else take_arrivals(first, last),
                think_times=timing.closed_loop.think_times[first:last] if timing.closed_loop else None,
                prefix_groups=_prefix_groups(config.prefix.num_groups, last - first, prefixes),
                sample_output_tokens=take_samples(prompts, outputs),
            )

        return take

    return Workload(
        name=name,
        num_requests=count,
        start=start,
        num_clients=timing.closed_loop.num_clients if timing.closed_loop else 0,
        prefix_tokens=config.prefix.tokens,
        skipped_rows=0 if trace is None else trace.skipped_rows,
        arrival_marks=timing.marks,
    )


def _estimates(outputs: NDArray[np.int64], cv: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return output lengths with lognormal noise of mean 1 and this coefficient of variation."""
    if cv == 0:
        return outputs.copy()
    variance = np.log1p(cv**2)
    normal = rng.standard_normal(len(outputs))
    estimates: NDArray[np.float64] = outputs * np.exp(np.sqrt(variance) * normal - variance / 2)
    return np.rint(np.clip(estimates, 1, MAX_TOKENS)).astype(np.int64)


def _samples(
    config: WorkloadConfig, lengths: Callable[[], TakeLengths], count: int, seed: int
) -> Callable[[], TakeSamples]:
    """Return what begins to draw a length for each parallel sample: None where they share one.

    The first sample has the request's own length. The others have those of requests drawn from the same
    workload, cut so that no request becomes longer than the longest there is. So all lengths have to be there:
    the one thing of a workload of which four bytes a request stay in memory.
    """
    sampling = config.sampling
    if sampling.lengths == "shared" or sampling.num_sequences == 1:
        return lambda: lambda prompts, outputs: None
    all_outputs, longest, take_lengths = np.empty(count, dtype=np.int32), 0, lengths()
    for first in range(0, count, CHUNK):
        prompts, outputs = take_lengths(first, min(first + CHUNK, count))
        all_outputs[first : first + len(outputs)] = outputs
        longest = max(longest, int((prompts + outputs).max()))

    def start() -> TakeSamples:
        rng = stream(seed, "samples")

        def take(prompts: NDArray[np.int64], outputs: NDArray[np.int64]) -> NDArray[np.int64]:
            drawn = rng.integers(0, count, (len(outputs), sampling.num_sequences - 1))
            others = np.minimum(all_outputs[drawn].astype(np.int64), (longest - prompts)[:, np.newaxis])
            return np.concatenate([outputs[:, np.newaxis], others], axis=1)

        return take

    return start


def _prefix_groups(num_groups: int, count: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """Return the group of each request, all equally likely; None if there are no prefixes."""
    if not num_groups:
        return None
    return np.floor(rng.random(count) * num_groups).astype(np.int64)
