"""Figures over simulated time, and of the memory account: of each allocator, the mean over seeds and their range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pagesim.errors import ConfigError
from pagesim.report.panels import legend_below, named_at, stacked
from pagesim.report.rows import Point, Rows
from pagesim.report.style import INK, PARTS, Look, label_ends, new_figure, set_title, styled, written
from pagesim.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BINS: Final = 240
"""More bins than this are noise on a figure; neighbours are averaged."""

_SUMMARY_NAME: Final = {"live": "utilization"}
_RANGE: Final[dict[str, Any]] = {"color": INK, "alpha": 0.28, "linewidth": 0}


def memory(results: Results | pd.DataFrame, point: Point | None = None) -> Figure:
    """Return the memory account of each allocator as a stacked bar, averaged over seeds.

    Args:
        results: a results folder, or a summary.
        point: of the sweep; by default the one with the highest load.
    """
    rows = Rows.of(results)
    parts = {_SUMMARY_NAME.get(part, part): drawn for part, drawn in PARTS.items()}
    label = "share of the KV cache, mean over time (%)"
    return stacked(rows, point or rows.heaviest, parts, label, "Where the memory goes", ncols=len(PARTS))


def utilization(results: Results, point: Point | None = None, seed: int | None = None) -> Figure:
    """Return the share of the memory that holds live tokens, over time: a line an allocator.

    The line is the mean over seeds, its band goes from the least to the most of them.

    Args:
        results: a results folder.
        point: of the sweep; by default the one with the highest load.
        seed: whose run alone is shown; by default all.
    """
    return _lines(results, point, seed, "live", 100, "live tokens (% of the KV cache)", "How full the memory is")


def batch(results: Results, point: Point | None = None, seed: int | None = None) -> Figure:
    """Return how many requests run at a time, over time: a line an allocator. Bands, arguments as ``utilization``."""
    return _lines(results, point, seed, "running", 1, "running requests", "How many requests run at a time")


def fragmentation(results: Results, point: Point | None = None, seed: int | None = None) -> Figure:
    """Return the memory account over time as stacked areas: a panel an allocator. Arguments as ``utilization``.

    Areas are means over seeds; a band at the upper edge of what is live goes from the least to the most of them.
    """
    rows = Rows.of(results)
    point = point or rows.heaviest
    courses = _courses(results, rows, point, seed, list(PARTS), coarse=2)
    columns = min(3, len(courses))
    num_rows = math.ceil(len(courses) / columns)
    shown = [part for part in PARTS if any((course.mean[part] > 0.0005).any() for course in courses.values())]
    with styled():
        figure, axes = new_figure(7.2, 0.9 + 1.9 * num_rows, num_rows, columns, sharex=True, sharey=True)
        end = max(course.end for course in courses.values())
        factor, unit = _time_unit(end)
        for place, (name, course) in enumerate(courses.items()):
            panel = axes.flat[place]
            t = course.middle / factor
            stacked = [100 * course.mean[part] for part in shown]
            colours = [PARTS[part][1] for part in shown]
            panel.stackplot(t, *stacked, colors=colours, labels=[PARTS[part][0] for part in shown], linewidth=0)
            if course.num_seeds > 1:
                least, most = 100 * course.least["live"], 100 * course.most["live"]
                panel.fill_between(t, least, most, label="_nolegend_", **_RANGE)
            panel.set(ylim=(0, 100), xlim=(0, end / factor))
            panel.set_title(written(name), fontsize=10, pad=4)
        for empty in axes.flat[len(courses) :]:
            empty.set_visible(False)
        for panel in axes.flat[max(len(courses) - columns, 0) : len(courses)]:
            panel.tick_params(labelbottom=True)
            panel.set_xlabel(f"time ({unit})")
        for panel in axes[:, 0]:
            panel.set_ylabel("KV cache (%)")
        set_title(figure, "Where the memory goes, over time", str(point))
        extra = {"range of live over seeds": _RANGE} if any(c.num_seeds > 1 for c in courses.values()) else {}
        legend_below(figure, axes[0, 0], ncols=len(PARTS) + 1, extra=extra)
    return figure


class _Course(NamedTuple):
    """How the runs of one allocator went.

    Attributes:
        middle: of each bin, in seconds.
        mean, least, most: by column, over the seeds, one value a bin.
        end: of the longest run, in seconds.
        num_seeds: how many runs.
    """

    middle: NDArray[np.float64]
    mean: dict[str, NDArray[np.float64]]
    least: dict[str, NDArray[np.float64]]
    most: dict[str, NDArray[np.float64]]
    end: float
    num_seeds: int


def _lines(
    results: Results, point: Point | None, seed: int | None, column: str, factor: float, label: str, title: str
) -> Figure:
    rows = Rows.of(results)
    point, look = point or rows.heaviest, Look(rows)
    courses = _courses(results, rows, point, seed, [column])
    with styled():
        figure, axes = new_figure(7.2, 3.4)
        panel = axes[0, 0]
        end = max(course.end for course in courses.values())
        scale, unit = _time_unit(end)
        for name, course in courses.items():
            x, order = course.middle / scale, 1 if rows.is_bound(name) else 2
            panel.plot(
                x, course.mean[column] * factor, **look.line(name), linewidth=1.4, zorder=order, label=f"_{name}"
            )
            if course.num_seeds > 1:
                least, most = course.least[column] * factor, course.most[column] * factor
                panel.fill_between(x, least, most, color=look.colour(name), alpha=0.15, linewidth=0)
        panel.set(xlabel=f"time ({unit})", ylabel=label, xlim=(0, end / scale), ylim=(0, None))
        panel.grid(axis="y")
        set_title(figure, title, str(point))
        heights = {name: float(np.median(course.mean[column])) * factor for name, course in courses.items()}
        label_ends(panel, heights, look)
    return figure


def _courses(
    results: Results, rows: Rows, point: Point, seed: int | None, columns: Sequence[str], coarse: int = 1
) -> dict[str, _Course]:
    """Return how the runs of each allocator went, in no more bins than a figure can show (by ``coarse`` fewer)."""
    found = {}
    for name in named_at(rows, point):
        runs = rows.at(point, name)
        if seed is not None:
            runs = runs[runs["seed"] == seed]
        lines = [line for run in runs["run"] if len(line := results.timeline(str(run)))]
        if lines:
            found[name] = _course(lines, columns, MAX_BINS // coarse)
    if not found:
        raise ConfigError(f"{results.name} has no timeline to draw{f' for seed {seed}' if seed is not None else ''}")
    return found


def _course(lines: Sequence[pd.DataFrame], columns: Sequence[str], most_bins: int) -> _Course:
    """Return timelines of several seeds on one clock; of a single one, neighbouring bins are averaged.

    A run that has ended holds nothing: its memory is free while others of its seeds go on.
    """
    longest = max(lines, key=_end_of)
    if len(lines) == 1:
        together = math.ceil(len(longest) / most_bins)
        own = _edges(longest)
        edges = np.append(own[:-1:together], own[-1])
    else:
        edges = np.linspace(0, _end_of(longest), min(most_bins, len(longest)) + 1)
    binned = [_binned(line, columns, edges) for line in lines]
    values = {column: np.array([found[column] for found in binned]) for column in columns}
    return _Course(
        middle=(edges[:-1] + edges[1:]) / 2,
        mean={column: found.mean(axis=0) for column, found in values.items()},
        least={column: found.min(axis=0) for column, found in values.items()},
        most={column: found.max(axis=0) for column, found in values.items()},
        end=float(edges[-1]),
        num_seeds=len(lines),
    )


def _binned(line: pd.DataFrame, columns: Sequence[str], edges: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Return exact means over other bins: differences of the integral, which is straight inside each own bin."""
    own, widths = _edges(line), np.diff(edges)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        integral = np.concatenate([[0.0], np.cumsum(values * np.diff(own))])
        found: NDArray[np.float64] = np.diff(np.interp(edges, own, integral)) / widths
        return found

    found = {column: mean(line[column].to_numpy(dtype=np.float64)) for column in columns}
    if "free" in found:
        found["free"] += 1 - mean(np.ones(len(line)))
    return found


def _edges(line: pd.DataFrame) -> NDArray[np.float64]:
    starts = line["t_s"].to_numpy(dtype=np.float64)
    return np.append(starts, _end_of(line))


def _end_of(line: pd.DataFrame) -> float:
    return float(line["t_s"].iloc[-1] + line["width_s"].iloc[-1])


def _time_unit(seconds: float) -> tuple[float, str]:
    for factor, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 3 * factor:
            return factor, unit
    return 1.0, "s"
