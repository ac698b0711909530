"""From the experiment's ``workload`` part and a seed to the requests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagesim import plugin_modules, plugins
from pagesim.config import DistributionConfig, LengthsConfig, Part, WorkloadConfig
from pagesim.errors import ConfigError, PagesimError, PluginError, TraceError
from pagesim.workload.arrivals import ClosedProcess, OpenProcess
from pagesim.workload.data import ClosedLoop, Workload
from pagesim.workload.datasets import Independent, PairedLengths, dataset
from pagesim.workload.lengths import MAX_TOKENS, Lengths
from pagesim.workload.streams import stream
from pagesim.workload.traces import TraceRows, read_trace


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
    if trace is None:
        count = config.num_requests or 0
        name, pairs = _pairs(config.lengths, base_dir)
        prompts, outputs = pairs.sample(count, stream(seed, "prompts"), stream(seed, "outputs"))
    else:
        count, name = len(trace), trace.path.name
        prompts, outputs = trace.prompt_tokens, trace.output_tokens
    arrivals, closed_loop = _arrivals(config, count, seed, base_dir, trace)
    return Workload(
        name=name,
        prompt_tokens=prompts + config.prefix.tokens,
        output_tokens=outputs,
        estimates=_estimates(outputs, config.estimate.cv, seed),
        arrivals=arrivals,
        closed_loop=closed_loop,
        sample_output_tokens=_samples(config, prompts, outputs, seed),
        prefix_groups=_prefix_groups(config.prefix.num_groups, count, seed),
        prefix_tokens=config.prefix.tokens,
        skipped_rows=0 if trace is None else trace.skipped_rows,
    )


def _pairs(config: LengthsConfig | None, base_dir: Path) -> tuple[str, PairedLengths]:
    if config is None:
        raise ConfigError("workload.lengths: is required unless there is a trace")
    if config.dataset is not None:
        return config.dataset, dataset(config.dataset)
    assert config.prompt is not None
    assert config.output is not None
    name = f"{config.prompt.distribution} prompts, {config.output.distribution} outputs"
    return name, Independent(_distribution(config.prompt, base_dir), _distribution(config.output, base_dir))


def _distribution(config: DistributionConfig, base_dir: Path) -> Lengths:
    cls = plugins.resolve("lengths", config.distribution, base_dir)
    found: Lengths = plugins.build(cls, **_options(config, "distribution"))
    return _Checked(found)


class _Checked:
    """A distribution whose answers are looked at: it may be a user's."""

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self._name = type(lengths).__name__

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) lengths. Raises PluginError where they are none."""
        found = _integers(f"{self._name}.sample", _ask(self._lengths.sample, count, rng), count)
        if count and (found.min() < 1 or found.max() > MAX_TOKENS):
            raise PluginError(
                f"{self._name}.sample: lengths must be from 1 to {MAX_TOKENS}, are from {found.min()} to {found.max()}"
            )
        return found


def _arrivals(
    config: WorkloadConfig, count: int, seed: int, base_dir: Path, trace: TraceRows | None
) -> tuple[NDArray[np.int64] | None, ClosedLoop | None]:
    name = "trace" if config.arrivals is None else config.arrivals.process
    options = {} if config.arrivals is None else _options(config.arrivals, "process")
    cls = plugins.resolve("arrivals", name, base_dir)
    if trace is not None and plugins.accepts(cls, "recorded"):
        if trace.arrivals is None:
            raise TraceError(
                f"{trace.path}: has no arrival times; give workload.arrivals, such as {{process: poisson, rate: 1}}"
            )
        options["recorded"] = trace.arrivals
    process = plugins.build(cls, **options)
    if isinstance(process, ClosedProcess):
        return None, _clients(cls.__name__, _ask(process.clients, count, stream(seed, "think")), count)
    if not isinstance(process, OpenProcess):
        raise PluginError(f"arrivals {name!r}: {cls.__name__} has neither sample nor clients(count, rng)")
    ticks = _integers(f"{cls.__name__}.sample", _ask(process.sample, count, stream(seed, "arrivals")), count)
    if count and (ticks[0] < 0 or (np.diff(ticks) < 0).any()):
        raise PluginError(f"{cls.__name__}.sample: arrivals must be ticks from 0 that do not decrease")
    return ticks, None


def _clients(name: str, found: Any, count: int) -> ClosedLoop:
    if not isinstance(found, ClosedLoop) or found.num_clients < 1:
        raise PluginError(f"{name}.clients: must return a pagesim.workload.ClosedLoop with one client or more")
    think_times = _integers(f"{name}.clients: think_times", found.think_times, count)
    if count and think_times.min() < 0:
        raise PluginError(f"{name}.clients: think_times must be ticks from 0")
    return ClosedLoop(found.num_clients, think_times)


def _ask(method: Callable[..., Any], count: int, rng: np.random.Generator) -> Any:
    """Return what a policy answers. Raises PluginError with its place if it raises."""
    try:
        return method(count, rng)
    except PagesimError:
        raise
    except Exception as error:
        name = getattr(method, "__qualname__", str(method))
        raise PluginError(f"{name} raises: {plugin_modules.describe(error)}") from error


def _integers(name: str, values: Any, count: int) -> NDArray[np.int64]:
    """Return an array of int64 that is not the class's own. Raises PluginError for anything else."""
    array: NDArray[Any] = np.array(values)
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        raise PluginError(f"{name}: must be {count} whole numbers, is {array.dtype} of shape {array.shape}")
    integers: NDArray[np.int64] = array.astype(np.int64, copy=False)
    return integers


def _estimates(outputs: NDArray[np.int64], cv: float, seed: int) -> NDArray[np.int64]:
    """Return output lengths with lognormal noise of mean 1 and this coefficient of variation."""
    if cv == 0:
        return outputs.copy()
    variance = np.log1p(cv**2)
    normal = stream(seed, "estimates").standard_normal(len(outputs))
    estimates: NDArray[np.float64] = outputs * np.exp(np.sqrt(variance) * normal - variance / 2)
    return np.rint(np.clip(estimates, 1, MAX_TOKENS)).astype(np.int64)


def _samples(
    config: WorkloadConfig, prompts: NDArray[np.int64], outputs: NDArray[np.int64], seed: int
) -> NDArray[np.int64] | None:
    """Return a length for each parallel sample, where they are independent; None where they share one.

    The first sample has the request's own length. The others have those of requests drawn from the same
    workload, cut so that no request becomes longer than the longest there is.
    """
    sampling = config.sampling
    if sampling.lengths == "shared" or sampling.num_sequences == 1:
        return None
    drawn = stream(seed, "samples").integers(0, len(outputs), (len(outputs), sampling.num_sequences - 1))
    room = (prompts + outputs).max() - prompts
    others = np.minimum(outputs[drawn], room[:, np.newaxis])
    return np.concatenate([outputs[:, np.newaxis], others], axis=1)


def _prefix_groups(num_groups: int, count: int, seed: int) -> NDArray[np.int64] | None:
    """Return the group of each request, all equally likely; None if there are no prefixes."""
    if not num_groups:
        return None
    return np.floor(stream(seed, "prefixes").random(count) * num_groups).astype(np.int64)


def _options(part: Part, name_key: str) -> dict[str, Any]:
    """Return the keys that are given besides the policy's name, and its further ``options``."""
    options = {key: value for key, value in part if value is not None and key != name_key}
    further: dict[str, Any] = options.pop("options", {})
    return options | further
