"""What figures are made of: lines against a sweep, bars by allocator, stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from pagesim.errors import ConfigError
from pagesim.report.rows import LOAD_KEYS, Point, Rows, axis_label, numeric, show_value
from pagesim.report.style import EDGE, EMPTY, FAINT, INK, Look, label_ends, new_figure, set_title, styled, written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RATE: Final = "workload.arrivals.rate"
NUM_COLUMNS: Final = 2
"""More panels than this beside one another are too small for a slide."""

LEVEL: Final[dict[str, Any]] = {"color": FAINT, "linewidth": 1.1, "linestyle": (0, (2, 2)), "zorder": 1}
"""How objectives and limits are drawn."""


class Panel(NamedTuple):
    """One figure of the summary.

    Attributes:
        column: of the summary.
        label: of the axis, with the unit.
        is_log: whether the axis is logarithmic.
        levels: where lines are drawn across, and what is written at their ends.
        rings: by allocator, a place to mark on its line.
        ends: by allocator, what is written at its line's end instead of its name.
    """

    column: str
    label: str
    is_log: bool = False
    levels: Mapping[float, str] = MappingProxyType({})
    rings: Mapping[str, tuple[float, float]] = MappingProxyType({})
    ends: Mapping[str, str] = MappingProxyType({})


def drawn(rows: Rows, panels: Sequence[Panel], title: str) -> Figure:
    """Return panels against what is swept; without a sweep, with a bar an allocator."""
    return bars(rows, panels, title) if len(rows.points) == 1 else against(rows, load_key(rows), panels, title)


def load_key(rows: Rows) -> str:
    """Return the swept key that means load, else the first one that is swept."""
    return next((key for key in LOAD_KEYS if key in rows.sweep_keys), rows.sweep_keys[0])


def points_along(rows: Rows, key: str) -> tuple[list[Point], list[float] | None]:
    """Return the points along a swept key, in its order, and their places (None if the values are no numbers).

    What else is swept stays as at the heaviest point.
    """
    others = {other: value for other, value in rows.heaviest.values.items() if other != key}
    points = [point for point in rows.points if all(point.values[other] == value for other, value in others.items())]
    places = numeric([point.values[key] for point in points])
    if places is None:
        return points, None
    pairs = sorted(zip(places, points, strict=True), key=lambda pair: pair[0])
    return [point for _, point in pairs], [place for place, _ in pairs]


def against(
    rows: Rows,
    key: str,
    panels: Sequence[Panel],
    title: str,
) -> Figure:
    """Draw panels against a swept key, the bands from the least to the most of the seeds.

    Args:
        rows: what to draw.
        key: that is swept; what else is swept stays as at the heaviest point.
        panels: at most two beside one another.
        title: of the figure.
    """
    look = Look(rows)
    points, xs = points_along(rows, key)
    places = xs if xs is not None else [float(place) for place in range(len(points))]
    with styled():
        figure, axes = _grid(len(panels), 2.9)
        for wanted, panel in zip(panels, axes, strict=True):
            ends = {}
            for name in rows.names:
                seeds = [rows.values(point, name, wanted.column) for point in points]
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
            if key == RATE and wanted.column == "throughput_requests_per_s":
                _offered(panel, places)
            _scale_x(panel, key, xs, places, [show_value(point.values[key]) for point in points])
            if wanted.is_log:
                panel.set_yscale("log")
            else:
                highest = max(
                    (float(np.max(np.asarray(line.get_ydata(), dtype=np.float64))) for line in panel.lines), default=0.0
                )
                panel.set_ylim(0, max(panel.get_ylim()[1], 1.05 * highest))
            plain_numbers(panel.yaxis)
            for name, place in wanted.rings.items():
                ring: dict[str, Any] = {
                    "marker": "o",
                    "markersize": 10,
                    "markerfacecolor": "none",
                    "label": "_nolegend_",
                }
                panel.plot(*place, color=look.colour(name), **ring)
            for value in wanted.levels:
                panel.axhline(value, label="_nolegend_", **LEVEL)
            panel.set(ylabel=wanted.label)
            panel.grid(axis="y")
            texts = {name: wanted.ends.get(name, written(name, 26 if len(panels) == 1 else 16)) for name in ends}
            levels = {f"\n{text}": value for value, text in wanted.levels.items()}  # no allocator is called so
            label_ends(panel, ends | levels, look, texts | {name: name.strip() for name in levels})
        others = {other: value for other, value in rows.heaviest.values.items() if other != key}
        fixed = ", ".join(f"{other.rsplit('.', 1)[-1]} {show_value(value)}" for other, value in others.items())
        set_title(figure, title, fixed)
        thin_labels(figure, axes)
    return figure


def bars(rows: Rows, panels: Sequence[Panel], title: str) -> Figure:
    """Draw a bar an allocator and panel, with the standard deviation over the seeds."""
    look, point = Look(rows), rows.points[0]
    names = named_at(rows, point)
    with styled():
        figure, axes = _grid(len(panels), 0.9 + 0.36 * len(names), sharey=True)
        for wanted, panel in zip(panels, axes, strict=True):
            means = [rows.mean(point, name, wanted.column) for name in names]
            spread = np.nan_to_num([rows.spread(point, name, wanted.column) for name in names])
            panel.barh(
                range(len(names)),
                means,
                xerr=spread if spread.any() else None,
                color=[look.colour(name) for name in names],
                height=0.66,
                ecolor=FAINT,
            )
            largest = float(np.nanmax([*means, 1e-12]))
            for place, (mean, off) in enumerate(zip(means, spread, strict=True)):
                panel.annotate(
                    short(mean),
                    (np.nan_to_num(mean) + off, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
            panel.set(xlabel=wanted.label, xlim=(0, 1.18 * largest + float(spread.max(initial=0))))
            panel.set_yticks(range(len(names)), [written(name) for name in names])
            panel.locator_params(axis="x", nbins=6)
            plain_numbers(panel.xaxis)
            panel.tick_params(axis="y", length=0)
            panel.spines["left"].set_visible(False)
            for value in wanted.levels:
                panel.axvline(value, label="_nolegend_", **LEVEL)
        axes[0].invert_yaxis()
        set_title(figure, title, "")
        thin_labels(figure, axes)
    return figure


def stacked(
    rows: Rows, point: Point, parts: Mapping[str, tuple[str, str]], xlabel: str, title: str, ncols: int
) -> Figure:
    """Draw shares that sum to 1 as a stacked bar an allocator, averaged over seeds, in per cent.

    Args:
        rows: what to draw.
        point: of the sweep.
        parts: by column of the summary, the name and the colour; a part that nobody has is left out.
        xlabel: of the axis.
        title: of the figure.
        ncols: of the legend.
    """
    names = named_at(rows, point)
    with styled():
        figure, axes = new_figure(7.2, 1.3 + 0.42 * len(names))
        panel = axes[0, 0]
        left = np.zeros(len(names))
        for column, (label, colour) in parts.items():
            widths = 100 * np.nan_to_num(np.array([rows.mean(point, name, column) for name in names]))
            if not (widths > 0.05).any():
                continue
            look: dict[str, Any] = {"color": colour, "height": 0.68, "edgecolor": EDGE, "linewidth": 0.6}
            panel.barh(range(len(names)), widths, left=left, label=label, **look)
            for place, width in enumerate(widths):
                if width >= 4:
                    panel.text(
                        left[place] + width / 2,
                        place,
                        f"{width:.0f}",
                        color=_text_on(colour),
                        ha="center",
                        va="center",
                        fontsize=9,
                    )
            left += widths
        panel.set(xlim=(0, 100), xlabel=xlabel)
        panel.set_yticks(range(len(names)), [written(name) for name in names])
        panel.invert_yaxis()
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
        set_title(figure, title, str(point))
        legend_below(figure, panel, ncols)
    return figure


def legend_below(figure: Figure, axes: Axes, ncols: int, extra: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Put the legend of axes below the figure; ``extra`` gives further entries, by name the looks of a patch."""
    from matplotlib.patches import Patch

    handles, labels = axes.get_legend_handles_labels()
    for label, looks in (extra or {}).items():
        handles.append(Patch(**looks))
        labels.append(label)
    apart = {"columnspacing": 1.4} if len(labels) <= 6 else {"columnspacing": 0.9, "handletextpad": 0.5}
    figure.legend(handles, labels, loc="outside lower left", ncols=ncols, handlelength=1, handleheight=1, **apart)


def named_at(rows: Rows, point: Point) -> list[str]:
    """Return the allocators that have a run at a point. Raises ConfigError if there is none."""
    names = [name for name in rows.names if len(rows.at(point, name))]
    if not names:
        raise ConfigError("no run is done: there is nothing to draw")
    return names


def any_above(rows: Rows, columns: Sequence[str], least: float = 0.0) -> bool:
    """Return whether any run has more than ``least`` of any of the figures."""
    there = [column for column in columns if column in rows.summary]
    return any(
        bool((rows.values(point, name, column) > least).any())
        for column in there
        for point in rows.points
        for name in rows.names
    )


def short(value: float) -> str:
    """Return a number with three digits, thousands apart; ``none`` if it is missing."""
    if not np.isfinite(value):
        return "none"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def plain_numbers(axis: Any) -> None:
    """Let an axis say 0.1, 1, 10 rather than powers of ten, and 20,000 with its thousands apart.

    A logarithmic one of less than two decades has numbers at 2 and 5 too, else there might be but one.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = FuncFormatter(lambda value, place: f"{value:,.10g}")
    axis.set_major_formatter(plain)
    if axis.get_scale() != "log":
        return
    low, high = axis.get_view_interval()
    if 0 < low < high < 100 * low:
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter(plain)
        axis.set_tick_params(which="minor", labelsize=9)
    else:
        axis.set_minor_formatter(NullFormatter())


def thin_labels(figure: Figure, panels: Sequence[Axes]) -> None:
    """Leave out every other number below axes where they would touch; the last one stays."""
    figure.draw_without_rendering()
    for panel in panels:
        labels = [label for label in panel.get_xticklabels() if label.get_text() and label.get_visible()]
        boxes = [label.get_window_extent() for label in labels]
        space = 0.05 * figure.dpi
        if any(second.x0 - first.x1 < space for first, second in pairwise(boxes)):
            for label in labels[-2::-2]:
                label.set_visible(False)


def _grid(count: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of ``count`` panels, each ``height`` inches high, and its axes in reading order."""
    columns = min(count, NUM_COLUMNS)
    num_rows = -(-count // columns)
    figure, axes = new_figure(7.2, 0.4 + height * num_rows, num_rows, columns, **options)
    for empty in axes.flat[count:]:
        empty.set_visible(False)
    return figure, list(axes.flat[:count])


def _offered(panel: Axes, places: Sequence[float]) -> None:
    """Draw the rate that was offered: nobody can finish more."""
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


def _text_on(colour: str) -> str:
    """Return black or white, whichever is easier to read on a colour; on what is empty, the ink of the page."""
    if colour == EMPTY:
        return INK
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#1b1b20" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"
