"""Figures over a sweep, and of the requests: throughput, latency, block sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from pagesim.errors import ConfigError
from pagesim.report.over_time import named_at
from pagesim.report.rows import LOAD_KEYS, Point, Rows, axis_label, numeric, show_value
from pagesim.report.style import FAINT, Look, label_ends, new_figure, set_title, styled
from pagesim.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATE: Final = "workload.arrivals.rate"
_QUANTILES: Final = np.concatenate([np.linspace(0, 0.98, 197), np.linspace(0.981, 1, 20)])


def throughput(results: Results | pd.DataFrame) -> Figure:
    """Return throughput and normalized latency against what is swept; without a sweep, a bar an allocator.

    The bands go from the least to the most of the seeds.
    """
    rows = Rows.of(results)
    figures = (
        ("throughput_output_tokens_per_s", "output tokens/s", False),
        ("normalized_latency_s_per_token", "normalized latency (s/token)", True),
    )
    if len(rows.points) == 1:
        return _bars(rows, figures, "Throughput and latency")
    if RATE in rows.sweep_keys:
        figures = (("throughput_requests_per_s", "finished requests/s", False), figures[1])
    key = next((key for key in LOAD_KEYS if key in rows.sweep_keys), rows.sweep_keys[0])
    return _against(rows, key, figures, "Throughput and latency")


def blocks(results: Results | pd.DataFrame) -> Figure:
    """Return throughput and wasted memory against the block size.

    Raises ConfigError unless a block size is swept.
    """
    rows = Rows.of(results)
    key = block_size_key(rows)
    if key is None:
        raise ConfigError("a figure of block sizes needs a sweep over one, such as allocators.*.block_size")
    wasted = "internal_and_external"
    summary = rows.summary.assign(**{wasted: 100 * (rows.summary["internal"] + rows.summary["external"])})
    figures = (
        ("throughput_output_tokens_per_s", "output tokens/s", False),
        (wasted, "wasted: internal + external (%)", False),
    )
    return _against(Rows(summary, rows.sweep_keys, rows.baseline), key, figures, "What the block size changes")


def latency(results: Results, point: Point | None = None) -> Figure:
    """Return how TTFT and TPOT are distributed over the measured requests of all seeds.

    Args:
        results: a results folder.
        point: of the sweep; by default the one with the highest load.
    """
    rows = Rows.of(results)
    point, look = point or rows.heaviest, Look(rows)
    with styled():
        figure, axes = new_figure(7.2, 3.4, 1, 2, sharey=True)
        slowest = 0.0
        for name in named_at(rows, point):
            runs = [results.requests(str(run)) for run in rows.at(point, name)["run"]]
            requests = pd.concat([_measured(run) for run in runs])
            for panel, column in zip(axes[0], ("ttft_s", "tpot_s"), strict=True):
                values = requests[column].dropna().to_numpy(dtype=np.float64)
                if len(values):
                    label = name if column == "ttft_s" else f"_{name}"  # the legend shows it once
                    panel.plot(np.quantile(values, _QUANTILES), 100 * _QUANTILES, label=label, **look.line(name))
                if len(values) and column == "tpot_s":
                    slowest = max(slowest, float(np.quantile(values, 0.995)))
        for panel, label in zip(axes[0], ("time to first token (s)", "time per output token (s)"), strict=True):
            panel.set(xlabel=label, ylim=(0, 100))
            panel.grid()
        axes[0, 0].set_xscale("log")
        plain_numbers(axes[0, 0].xaxis)
        axes[0, 1].set_xlim(0, 1.15 * slowest or None)  # the last few of a thousand would squeeze all others
        axes[0, 0].set_ylabel("requests that were faster (%)")
        set_title(figure, "How long requests waited", str(point))
        figure.legend(loc="outside right center", handlelength=2)
    return figure


def block_size_key(rows: Rows) -> str | None:
    """Return the swept key of a block size, if there is one with at least two sizes."""
    for key in rows.sweep_keys:
        sizes = {point.values[key] for point in rows.points}
        if key.endswith(".block_size") and len(sizes) > 1:
            return key
    return None


def plain_numbers(axis: Any) -> None:
    """Let a logarithmic axis say 0.1, 1, 10 rather than powers of ten."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _measured(requests: pd.DataFrame) -> pd.DataFrame:
    return requests[(requests["status"] == "finished") & (requests["measured"] == 1)]


def _against(rows: Rows, key: str, figures: Sequence[tuple[str, str, bool]], title: str) -> Figure:
    """Draw figures against a swept key; what else is swept stays as at the heaviest point."""
    look = Look(rows)
    others = {other: value for other, value in rows.heaviest.values.items() if other != key}
    points = [point for point in rows.points if all(point.values[other] == value for other, value in others.items())]
    values = [point.values[key] for point in points]
    xs = numeric(values)
    if xs is not None:
        points = [point for _, point in sorted(zip(xs, points, strict=True), key=lambda pair: pair[0])]
        xs = sorted(xs)
    places = xs if xs is not None else [float(place) for place in range(len(points))]
    with styled():
        figure, axes = new_figure(7.2, 3.3, 1, len(figures))
        for panel, (column, label, is_log) in zip(axes[0], figures, strict=True):
            ends = {}
            for name in rows.names:
                seeds = [rows.values(point, name, column) for point in points]
                there = [place for place, found in enumerate(seeds) if np.isfinite(found).any()]
                if not there:
                    continue
                x = [places[place] for place in there]
                means, least, most = (
                    [float(take(seeds[place])) for place in there] for take in (np.nanmean, np.nanmin, np.nanmax)
                )
                order = 1 if rows.is_bound(name) else 2
                panel.plot(x, means, **look.line(name), marker=look.marker(name), zorder=order, label=f"_{name}")
                panel.fill_between(x, least, most, color=look.colour(name), alpha=0.15, linewidth=0)
                ends[name] = means[-1]
            if key == RATE and column == "throughput_requests_per_s":
                panel.plot(places, places, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0)
                panel.annotate(
                    "offered",
                    (places[-1], places[-1]),
                    color=FAINT,
                    fontsize=8,
                    ha="right",
                    va="bottom",
                    xytext=(-4, 3),
                    textcoords="offset points",
                )
            _scale_x(panel, key, xs, places, [show_value(point.values[key]) for point in points])
            if is_log:
                panel.set_yscale("log")
                plain_numbers(panel.yaxis)
            else:
                panel.set_ylim(0, None)
            panel.set(ylabel=label)
            panel.grid(axis="y")
            label_ends(panel, ends, look)
        fixed = ", ".join(f"{other.rsplit('.', 1)[-1]} {show_value(value)}" for other, value in others.items())
        set_title(figure, title, fixed)
    return figure


def _scale_x(panel: Axes, key: str, xs: list[float] | None, places: list[float], shown: list[str]) -> None:
    from matplotlib.ticker import NullLocator

    panel.set_xlabel(axis_label(key))
    if xs is None:
        panel.set_xticks(places, shown, rotation=20 if max(map(len, shown)) > 8 else 0)
        return
    if min(xs) > 0 and max(xs) / min(xs) >= 16:
        panel.set_xscale("log", base=2)
        panel.xaxis.set_minor_locator(NullLocator())
    if len(xs) <= 9:
        panel.set_xticks(xs, shown)


def _bars(rows: Rows, figures: Sequence[tuple[str, str, bool]], title: str) -> Figure:
    look, point = Look(rows), rows.points[0]
    names = named_at(rows, point)
    with styled():
        figure, axes = new_figure(7.2, 1.2 + 0.36 * len(names), 1, len(figures), sharey=True)
        for panel, (column, label, _) in zip(axes[0], figures, strict=True):
            means = [rows.mean(point, name, column) for name in names]
            spread = np.nan_to_num([rows.spread(point, name, column) for name in names])
            panel.barh(
                names,
                means,
                xerr=spread if spread.any() else None,
                color=[look.colour(name) for name in names],
                height=0.66,
                ecolor=FAINT,
            )
            largest = float(np.nanmax([*means, 1e-12]))
            for place, (mean, off) in enumerate(zip(means, spread, strict=True)):
                text = f"{mean:.3g}" if np.isfinite(mean) else "none"
                panel.annotate(
                    text,
                    (np.nan_to_num(mean) + off, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
            panel.set(xlabel=label, xlim=(0, 1.18 * largest + float(spread.max(initial=0))))
            panel.tick_params(axis="y", length=0)
            panel.spines["left"].set_visible(False)
        axes[0, 0].invert_yaxis()
        set_title(figure, title, "")
    return figure
