"""Named pairs of prompt and output lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from pagesim.catalog import data

Number = TypeVar("Number", int, float)


class LengthsListing(NamedTuple):
    """What a named pair of distributions is, where it comes from, and under which licence."""

    name: str
    summary: str
    source: str
    licence: str


@dataclass(frozen=True, slots=True)
class LengthTable:
    """Quantiles of a public data set, of prompts and of outputs given the prompt.

    Attributes:
        prompt_probabilities, output_probabilities: increasing from 0 to 1.
        prompt: prompt length at each of them.
        outputs: one table for each of equally likely ranges of prompt lengths, the shortest first: output
            length at each of ``output_probabilities``.
        prompt_mean, output_mean: of the data, in tokens.
        rank_correlation: Spearman's, of the data.
        rows: how many requests the data has.
    """

    prompt_probabilities: tuple[float, ...]
    output_probabilities: tuple[float, ...]
    prompt: tuple[int, ...]
    outputs: tuple[tuple[int, ...], ...]
    prompt_mean: float
    output_mean: float
    rank_correlation: float
    rows: int


def lengths() -> list[LengthsListing]:
    """Return all named pairs of distributions."""
    return [
        LengthsListing(name, entry["summary"], entry["source"], entry["licence"])
        for name, entry in data.load("lengths").items()
    ]


def lengths_entry(name: str) -> Mapping[str, Any]:
    """Return the parameters of one of them. Raises ConfigError with the nearest name."""
    return data.entry("lengths", "dataset", name)


def length_table(name: str) -> LengthTable:
    """Return the table that an entry of ``lengths_entry`` names."""
    tables = data.load("length_tables")
    entry = tables[name]
    return LengthTable(
        prompt_probabilities=_numbers(tables["probabilities"]["prompt"], float),
        output_probabilities=_numbers(tables["probabilities"]["output"], float),
        prompt=_numbers(entry["prompt"], int),
        outputs=tuple(_numbers(quantiles, int) for quantiles in entry["outputs"]),
        prompt_mean=entry["prompt_mean"],
        output_mean=entry["output_mean"],
        rank_correlation=entry["rank_correlation"],
        rows=entry["rows"],
    )


def _numbers(text: str, kind: type[Number]) -> tuple[Number, ...]:
    return tuple(kind(word) for word in text.split())
