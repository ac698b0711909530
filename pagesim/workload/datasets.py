"""Named data sets: prompt and output lengths drawn together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pagesim import catalog
from pagesim.catalog import LengthTable
from pagesim.workload.lengths import Gamma, Lengths, Lognormal, Quantiles

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
    """

    def __init__(self, prompt: Lengths, output: Lengths) -> None:
        self.prompt = prompt
        self.output = output

    def sample(self, count: int, prompts: np.random.Generator, outputs: np.random.Generator) -> Pairs:
        """Return (count,) prompt and (count,) output lengths."""
        return self.prompt.sample(count, prompts), self.output.sample(count, outputs)


class Capped:
    """Pairs of another source; one with a larger sum is drawn again.

    Args:
        pairs: the other source, in which most pairs are small enough.
        max_total: largest sum of prompt and output, in tokens.
    """

    def __init__(self, pairs: PairedLengths, max_total: int) -> None:
        self.pairs = pairs
        self.max_total = max_total

    def sample(self, count: int, prompts: np.random.Generator, outputs: np.random.Generator) -> Pairs:
        """Return (count,) prompt and (count,) output lengths."""
        kept: list[NDArray[np.int64]] = []
        num_kept = 0
        while num_kept < count:
            # batches of one size, whatever the count, so that a longer sample starts with the shorter one
            batch = np.stack(self.pairs.sample(_BATCH, prompts, outputs))
            kept.append(batch[:, batch.sum(axis=0) <= self.max_total])
            num_kept += kept[-1].shape[1]
        pairs = np.concatenate(kept, axis=1)[:, :count] if kept else np.empty((2, 0), dtype=np.int64)
        return pairs[0].copy(), pairs[1].copy()


class Tabled:
    """Quantiles of a data set: of prompts, and of outputs in each range of prompt lengths.

    One number draws the prompt and the range it lies in, another the output within the range. So both
    distributions are kept, and how they depend on each other, to the width of a range.

    Args:
        table: from the catalog.
    """

    def __init__(self, table: LengthTable) -> None:
        self.prompt = Quantiles(table.prompt, table.prompt_probabilities)
        self.outputs = [Quantiles(quantiles, table.output_probabilities) for quantiles in table.outputs]

    def sample(self, count: int, prompts: np.random.Generator, outputs: np.random.Generator) -> Pairs:
        """Return (count,) prompt and (count,) output lengths."""
        at, within = prompts.random(count), outputs.random(count)
        ranges = np.floor(at * len(self.outputs)).astype(np.int64)
        lengths = np.empty(count, dtype=np.int64)
        for index, quantiles in enumerate(self.outputs):
            chosen = ranges == index
            lengths[chosen] = quantiles.at(within[chosen])
        return self.prompt.at(at), lengths


def dataset(name: str) -> PairedLengths:
    """Return a named data set. Raises ConfigError with the nearest name."""
    entry = catalog.lengths_entry(name)
    pairs: PairedLengths
    if "table" in entry:
        pairs = Tabled(catalog.length_table(entry["table"]))
    else:
        pairs = Independent(_shape(entry["prompt"]), _shape(entry["output"]))
    return Capped(pairs, entry["max_total"]) if "max_total" in entry else pairs


def _shape(values: Mapping[str, Any]) -> Lengths:
    """Return a distribution by the parameters that it was fitted in."""
    if values["distribution"] == "lognormal":
        variance = values["sigma"] ** 2
        return Lognormal(mean=float(np.exp(values["mu"] + variance / 2)), cv=float(np.sqrt(np.expm1(variance))))
    return Gamma(mean=values["shape"] * values["scale"], cv=float(values["shape"] ** -0.5))
