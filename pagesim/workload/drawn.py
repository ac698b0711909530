"""Lengths by the experiment's ``lengths`` part: drawn in chunks, or all at once where a class wants it so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagesim import plugins
from pagesim.config import DistributionConfig, LengthsConfig
from pagesim.errors import ConfigError, PluginError
from pagesim.workload.asked import ask, check_chunks, integers, options_of
from pagesim.workload.datasets import Independent, PairedLengths, Pairs, dataset
from pagesim.workload.lengths import MAX_TOKENS, Lengths, draws_in_chunks
from pagesim.workload.streams import stream

TakeLengths = Callable[[int, int], Pairs]
"""Gives prompt and output lengths from one request up to another; each call goes on where the last one ended."""


def lengths_of(
    config: LengthsConfig | None, count: int, seed: int, base_dir: Path
) -> tuple[str, Callable[[], TakeLengths]]:
    """Return the name of the lengths, and what begins to draw them."""
    if config is None:
        raise ConfigError("workload.lengths: is required unless there is a trace")
    pairs: PairedLengths
    if config.dataset is not None:
        name, pairs = config.dataset, dataset(config.dataset)
    else:
        assert config.prompt is not None
        assert config.output is not None
        name = f"{config.prompt.distribution} prompts, {config.output.distribution} outputs"
        prompt, output = _distribution(config.prompt, base_dir), _distribution(config.output, base_dir)
        in_chunks = draws_in_chunks(prompt) and draws_in_chunks(output)
        if in_chunks:
            for lengths in (prompt, output):
                check_chunks(f"{type(lengths).__name__}.sample", lengths.sample)
        pairs = Independent(_Checked(prompt), _Checked(output), in_chunks=in_chunks)

    def begin() -> Callable[[int], Pairs]:
        return pairs.start(stream(seed, "prompts"), stream(seed, "outputs"))

    if pairs.in_chunks:

        def start() -> TakeLengths:
            take = begin()
            return lambda first, last: take(last - first)

        return name, start
    prompts, outputs = begin()(count)
    return name, lambda: lambda first, last: (prompts[first:last], outputs[first:last])


def _distribution(config: DistributionConfig, base_dir: Path) -> Lengths:
    cls = plugins.resolve("lengths", config.distribution, base_dir)
    found: Lengths = plugins.build(cls, **options_of(config, "distribution"))
    return found


class _Checked:
    """A distribution whose answers are looked at: it may be a user's."""

    def __init__(self, lengths: Lengths) -> None:
        self._lengths = lengths
        self._name = type(lengths).__name__

    def sample(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return (count,) lengths. Raises PluginError where they are none."""
        if not count:
            return np.empty(0, dtype=np.int64)
        found = integers(f"{self._name}.sample", ask(self._lengths.sample, count, rng), count)
        if count and (found.min() < 1 or found.max() > MAX_TOKENS):
            raise PluginError(
                f"{self._name}.sample: lengths must be from 1 to {MAX_TOKENS}, are from {found.min()} to {found.max()}"
            )
        return found
