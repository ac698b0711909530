"""Named pairs of prompt and output lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pagesim.catalog import data


class LengthsListing(NamedTuple):
    """What a named pair of distributions is, where it comes from, and under which licence."""

    name: str
    summary: str
    source: str
    licence: str


def lengths() -> list[LengthsListing]:
    """Return all named pairs of distributions."""
    return [
        LengthsListing(name, entry["summary"], entry["source"], entry["licence"])
        for name, entry in data.load("lengths").items()
    ]


def lengths_entry(name: str) -> Mapping[str, Any]:
    """Return the parameters of one of them. Raises ConfigError with the nearest name."""
    return data.entry("lengths", "dataset", name)
