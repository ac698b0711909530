"""Named data sets: prompt and output lengths drawn together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pagesim import catalog
from pagesim.workload.lengths import Gamma, Lengths, Lognormal

_BATCH: Final = 4096

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


class PairedLengths(Protocol):
    """Draws a prompt's and an output's length for each request."""

    def sample(self, count: int, prompts: np.random.Generator, outputs: np.random.Generator) -> Pairs:
        """Return (count,) prompt and (count,) output lengths. A larger count starts with the same ones."""
        ...


class Independent:
    """Prompt and output lengths that have nothing to do with each other.

    Args:
        prompt: distribution of prompt lengths.
        output: distribution of output lengths.
        max_total: a pair with a larger sum is drawn again.
    """

    def __init__(self, prompt: Lengths, output: Lengths, max_total: int | None = None) -> None:
        self.prompt = prompt
        self.output = output
        self.max_total = max_total

    def sample(self, count: int, prompts: np.random.Generator, outputs: np.random.Generator) -> Pairs:
        """Return (count,) prompt and (count,) output lengths."""
        if self.max_total is None:
            return self.prompt.sample(count, prompts), self.output.sample(count, outputs)
        kept: list[NDArray[np.int64]] = []
        num_kept = 0
        while num_kept < count:
            # batches of one size, whatever the count, so that a longer sample starts with the shorter one
            batch = np.stack((self.prompt.sample(_BATCH, prompts), self.output.sample(_BATCH, outputs)))
            kept.append(batch[:, batch.sum(axis=0) <= self.max_total])
            num_kept += kept[-1].shape[1]
        pairs = np.concatenate(kept, axis=1)[:, :count] if kept else np.empty((2, 0), dtype=np.int64)
        return pairs[0].copy(), pairs[1].copy()


def dataset(name: str) -> PairedLengths:
    """Return a named data set. Raises ConfigError with the nearest name."""
    entry = catalog.lengths_entry(name)
    return Independent(_shape(entry["prompt"]), _shape(entry["output"]), entry["max_total"])


def _shape(values: Mapping[str, Any]) -> Lengths:
    """Return a distribution by the parameters that it was fitted in."""
    if values["distribution"] == "lognormal":
        variance = values["sigma"] ** 2
        return Lognormal(mean=float(np.exp(values["mu"] + variance / 2)), cv=float(np.sqrt(np.expm1(variance))))
    return Gamma(mean=values["shape"] * values["scale"], cv=float(values["shape"] ** -0.5))
