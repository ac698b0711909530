"""The figures by name: for notebooks, for ``pagesim plot`` and for the folder of plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pagesim.errors import ConfigError
from pagesim.plugins import nearest
from pagesim.report.costs import (
    has_ideal,
    has_preemptions,
    has_sharing,
    has_times,
    ideal,
    preemption,
    sharing,
    time,
)
from pagesim.report.over_sweep import block_size_key, blocks, latency, throughput
from pagesim.report.over_time import batch, fragmentation, memory, utilization
from pagesim.report.rows import Rows
from pagesim.report.style import save
from pagesim.results import Results
from pagesim.results.layout import PLOTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "KINDS",
    "batch",
    "blocks",
    "draw",
    "draw_all",
    "fragmentation",
    "ideal",
    "latency",
    "memory",
    "plot",
    "preemption",
    "sensible",
    "sharing",
    "throughput",
    "time",
    "utilization",
    "write_all",
]

KINDS: Final[dict[str, Callable[[Results], Figure]]] = {
    "memory": memory,
    "throughput": throughput,
    "blocks": blocks,
    "utilization": utilization,
    "fragmentation": fragmentation,
    "batch": batch,
    "latency": latency,
    "time": time,
    "preemption": preemption,
    "sharing": sharing,
    "ideal": ideal,
}
"""Every kind of figure, in the order in which a report shows them."""

_NEEDS: Final[dict[str, Callable[[Rows], bool]]] = {
    "blocks": lambda rows: block_size_key(rows) is not None,
    "time": has_times,
    "preemption": has_preemptions,
    "sharing": has_sharing,
    "ideal": lambda rows: has_ideal(rows, least=0.01),  # all at the bound: the table says it as well
}
"""What a summary must have for a figure to say something; the others always do."""


def draw(results: Results, kind: str) -> Figure:
    """Return a figure by its name. Raises ConfigError if there is no such kind, or nothing to draw."""
    if kind not in KINDS:
        raise ConfigError(f"there is no figure {kind!r}{nearest(kind, KINDS)}; kinds: {', '.join(KINDS)}")
    if not len(results.summary):
        raise ConfigError(f"no run of {results.name} is done: there is nothing to draw")
    figure = KINDS[kind](results)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, for it is written more than once
    return figure


def plot(results: Results | Path | str, kind: str, out: Path | None = None) -> Path:
    """Write one figure and return its path.

    Args:
        results: a results folder, or an experiment's name.
        kind: one of ``KINDS``.
        out: an .svg, .png or .pdf file; by default ``plots/<kind>.svg`` in the results folder.

    Raises ConfigError if there is no such kind or nothing to draw, or if the file cannot be written.
    """
    if not isinstance(results, Results):
        results = Results.load(results)
    return save(draw(results, kind), out if out is not None else results.folder / PLOTS / f"{kind}.svg")


def sensible(results: Results) -> list[str]:
    """Return the kinds that have something to show for these results."""
    if not len(results.summary):
        return []
    rows = Rows.of(results)
    return [kind for kind in KINDS if kind not in _NEEDS or _NEEDS[kind](rows)]


def write_all(results: Results, folder: Path | None = None, drawn: dict[str, Figure] | None = None) -> list[Path]:
    """Write every sensible figure as SVG and PNG, and return the paths.

    Args:
        results: a results folder.
        folder: where to; by default ``plots`` in it.
        drawn: figures that have been drawn already, by kind.
    """
    folder = folder if folder is not None else results.folder / PLOTS
    paths = []
    for kind, figure in (drawn if drawn is not None else draw_all(results)).items():
        paths += [save(figure, folder / f"{kind}.{ending}") for ending in ("svg", "png")]
    return paths


def draw_all(results: Results, problems: list[str] | None = None) -> dict[str, Figure]:
    """Return every sensible figure, by kind.

    Args:
        results: a results folder.
        problems: takes a sentence for each figure that cannot be drawn, because a table is damaged; None: the first
            such figure raises ConfigError.
    """
    drawn = {}
    for kind in sensible(results):
        try:
            drawn[kind] = draw(results, kind)
        except ConfigError as error:
            if problems is None:
                raise
            problems.append(f"the figure {kind} cannot be shown: {error}")
    return drawn
