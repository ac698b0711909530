"""Named data sets: prompt and output lengths drawn together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from pagesim import catalog
from pagesim.catalog import LengthTable
from pagesim.workload.lengths import Gamma, Lengths, Lognormal, Quantiles

_BATCH: Final = 4096

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


TakePairs = Callable[[int], Pairs]
"""Gives the next (count,) prompt and (count,) output lengths."""


class PairedLengths(Protocol):
    """Draws a prompt's and an output's length for each request."""

    in_chunks: bool
    """Whether it can be asked for some requests at a time."""

    def start(self, prompts: np.random.Generator, outputs: np.random.Generator) -> TakePairs:
        """Return what gives lengths. With ``in_chunks`` several calls give what one call gives."""
        ...


class Independent:
    """Prompt and output lengths that have nothing to do with each other.

    Args:
        prompt: distribution of prompt lengths.
        output: distribution of output lengths.
        max_total: a pair with a larger sum is drawn again; most pairs must be small enough.
        in_chunks: whether both distributions say so.
    """

    def __init__(
        self, prompt: Lengths, output: Lengths, max_total: int | None = None, *, in_chunks: bool = True
    ) -> None:
        self.prompt = prompt
        self.output = output
        self.max_total = max_total
        self.in_chunks = in_chunks

    def start(self, prompts: np.random.Generator, outputs: np.random.Generator) -> TakePairs:
        """Return what gives lengths."""
        if self.max_total is None:
            return lambda count: (self.prompt.sample(count, prompts), self.output.sample(count, outputs))
        kept = np.empty((2, 0), dtype=np.int64)

        def take(count: int) -> Pairs:
            nonlocal kept
            parts, num_kept = [kept], kept.shape[1]
            while num_kept < count:
                # batches of one size, whatever the count, so that a longer sample starts with the shorter one
                batch = np.stack((self.prompt.sample(_BATCH, prompts), self.output.sample(_BATCH, outputs)))
                parts.append(batch[:, batch.sum(axis=0) <= self.max_total])
                num_kept += parts[-1].shape[1]
            pairs = np.concatenate(parts, axis=1)
            kept = pairs[:, count:]
            return pairs[0, :count].copy(), pairs[1, :count].copy()

        return take


class Tabled:
    """Quantiles of a data set: of prompts, and of outputs in each range of prompt lengths.

    One number draws the prompt and the range it lies in, another the output within the range. So both
    distributions are kept, and how they depend on each other, to the width of a range.

    Args:
        table: from the catalog.
        max_total: the largest sum in the data, above the longest prompt. Ranges cannot keep such an edge: an
            output beyond it is cut there. (Drawing again would thin out long prompts.)
    """

    in_chunks = True

    def __init__(self, table: LengthTable, max_total: int | None = None) -> None:
        self.max_total = max_total
        self.prompt = Quantiles(table.prompt, table.prompt_probabilities)
        self.outputs = [Quantiles(quantiles, table.output_probabilities) for quantiles in table.outputs]

    def start(self, prompts: np.random.Generator, outputs: np.random.Generator) -> TakePairs:
        """Return what gives lengths."""
        return lambda count: self._at(prompts.random(count), outputs.random(count))

    def _at(self, at: NDArray[np.float64], within: NDArray[np.float64]) -> Pairs:
        ranges = np.floor(at * len(self.outputs)).astype(np.int64)
        lengths = np.empty(len(at), dtype=np.int64)
        for index, quantiles in enumerate(self.outputs):
            chosen = ranges == index
            lengths[chosen] = quantiles.at(within[chosen])
        prompt = self.prompt.at(at)
        if self.max_total is not None:
            lengths = np.minimum(lengths, self.max_total - prompt)
        return prompt, lengths


def dataset(name: str) -> PairedLengths:
    """Return a named data set. Raises ConfigError with the nearest name."""
    entry = catalog.lengths_entry(name)
    max_total = entry.get("max_total")
    if "table" in entry:
        return Tabled(catalog.length_table(entry["table"]), max_total)
    return Independent(_shape(entry["prompt"]), _shape(entry["output"]), max_total)


def _shape(values: Mapping[str, Any]) -> Lengths:
    """Return a distribution by the parameters that it was fitted in."""
    if values["distribution"] == "lognormal":
        variance = values["sigma"] ** 2
        return Lognormal(mean=float(np.exp(values["mu"] + variance / 2)), cv=float(np.sqrt(np.expm1(variance))))
    return Gamma(mean=values["shape"] * values["scale"], cv=float(values["shape"] ** -0.5))
