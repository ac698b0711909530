"""Figures over simulated time, and of the memory account: one run of each allocator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from pagesim.errors import ConfigError
from pagesim.report.panels import legend_below, named_at, stacked
from pagesim.report.rows import Point, Rows
from pagesim.report.style import PARTS, Look, label_ends, new_figure, set_title, styled
from pagesim.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_BINS: Final = 240
"""More bins than this are noise on a figure; neighbours are averaged."""

_SUMMARY_NAME: Final = {"live": "utilization"}


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

    Args:
        results: a results folder.
        point: of the sweep; by default the one with the highest load.
        seed: whose runs are shown; by default the first.
    """
    return _lines(results, point, seed, "live", 100, "live tokens (% of the KV cache)", "How full the memory is")


def batch(results: Results, point: Point | None = None, seed: int | None = None) -> Figure:
    """Return how many requests run at a time, over time: a line an allocator. Arguments as ``utilization``."""
    return _lines(results, point, seed, "running", 1, "running requests", "How many requests run at a time")


def fragmentation(results: Results, point: Point | None = None, seed: int | None = None) -> Figure:
    """Return the memory account over time as stacked areas: a panel an allocator. Arguments as ``utilization``."""
    rows = Rows.of(results)
    point = point or rows.heaviest
    lines = _timelines(results, rows, point, seed, coarse=2)
    columns = min(3, len(lines))
    num_rows = math.ceil(len(lines) / columns)
    shown = [part for part in PARTS if any((line[part] > 0.0005).any() for line in lines.values())]
    with styled():
        figure, axes = new_figure(7.2, 0.9 + 1.9 * num_rows, num_rows, columns, sharex=True, sharey=True)
        end = max(float(line["t_s"].iloc[-1] + line["width_s"].iloc[-1]) for line in lines.values())
        factor, unit = _time_unit(end)
        for place, (name, line) in enumerate(lines.items()):
            panel = axes.flat[place]
            t = (line["t_s"] + line["width_s"] / 2) / factor
            stacked = [100 * line[part] for part in shown]
            colours = [PARTS[part][1] for part in shown]
            panel.stackplot(t, *stacked, colors=colours, labels=[PARTS[part][0] for part in shown], linewidth=0)
            panel.set(ylim=(0, 100), xlim=(0, end / factor))
            panel.set_title(name, fontsize=10, pad=4)
        for empty in axes.flat[len(lines) :]:
            empty.set_visible(False)
        for panel in axes.flat[max(len(lines) - columns, 0) : len(lines)]:
            panel.tick_params(labelbottom=True)
            panel.set_xlabel(f"time ({unit})")
        for panel in axes[:, 0]:
            panel.set_ylabel("KV cache (%)")
        set_title(figure, "Where the memory goes, over time", str(point))
        legend_below(figure, axes[0, 0], ncols=len(PARTS))
    return figure


def _lines(
    results: Results, point: Point | None, seed: int | None, column: str, factor: float, label: str, title: str
) -> Figure:
    rows = Rows.of(results)
    point, look = point or rows.heaviest, Look(rows)
    lines = _timelines(results, rows, point, seed)
    with styled():
        figure, axes = new_figure(7.2, 3.4)
        panel = axes[0, 0]
        end = max(float(line["t_s"].iloc[-1] + line["width_s"].iloc[-1]) for line in lines.values())
        scale, unit = _time_unit(end)
        for name, line in lines.items():
            middle = (line["t_s"] + line["width_s"] / 2) / scale
            order = 1 if rows.is_bound(name) else 2
            panel.plot(middle, line[column] * factor, **look.line(name), linewidth=1.4, zorder=order, label=f"_{name}")
        panel.set(xlabel=f"time ({unit})", ylabel=label, xlim=(0, end / scale), ylim=(0, None))
        panel.grid(axis="y")
        set_title(figure, title, str(point))
        label_ends(panel, {name: float(line[column].median()) * factor for name, line in lines.items()}, look)
    return figure


def _timelines(
    results: Results, rows: Rows, point: Point, seed: int | None, coarse: int = 1
) -> dict[str, pd.DataFrame]:
    """Return the timeline of each allocator's run, in no more bins than a figure can show (by ``coarse`` fewer)."""
    found = {}
    for name in named_at(rows, point):
        runs = rows.at(point, name)
        if seed is not None:
            runs = runs[runs["seed"] == seed]
        if len(runs):
            found[name] = _coarser(results.timeline(str(runs["run"].iloc[0])), MAX_BINS // coarse)
    found = {name: line for name, line in found.items() if len(line)}
    if not found:
        raise ConfigError(f"{results.name} has no timeline to draw{f' for seed {seed}' if seed is not None else ''}")
    return found


def _coarser(line: pd.DataFrame, num_bins: int) -> pd.DataFrame:
    """Return a timeline with neighbouring bins averaged; bins are equal, so the means stay exact."""
    together = math.ceil(len(line) / num_bins)
    if together <= 1:
        return line
    numbers = line.select_dtypes("number")
    group = np.arange(len(line)) // together
    coarse = numbers.groupby(group).mean()
    coarse["t_s"] = numbers["t_s"].groupby(group).first()
    coarse["width_s"] = numbers["width_s"].groupby(group).sum()
    return coarse


def _time_unit(seconds: float) -> tuple[float, str]:
    for factor, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 3 * factor:
            return factor, unit
    return 1.0, "s"
