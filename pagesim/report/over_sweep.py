"""Figures over a sweep, and of the requests: throughput, latency, block sizes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from pagesim.errors import ConfigError
from pagesim.report.knee import LATENCY, LIMIT, knees
from pagesim.report.panels import (
    LEVEL,
    RATE,
    Panel,
    against,
    drawn,
    load_key,
    named_at,
    plain_numbers,
    points_along,
    short,
)
from pagesim.report.rows import LOAD_KEYS, Point, Rows
from pagesim.report.style import FAINT, Look, new_figure, set_title, styled, written
from pagesim.results import Results
from pagesim.units import parse_time, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE: Final = 20
"""Times that are so many times apart need a logarithmic axis."""

_QUANTILES: Final = np.concatenate([np.linspace(0, 0.98, 197), np.linspace(0.981, 1, 20)])


def throughput(results: Results | pd.DataFrame) -> Figure:
    """Return throughput and normalized latency against what is swept; without a sweep, a bar an allocator.

    The bands go from the least to the most of the seeds. Against a load, rings mark the knees (``knee``), a line
    the limit that defines them, and another the objective for TPOT under ``slo``, if there is one.
    """
    rows = Rows.of(results)
    service = Panel("throughput_output_tokens_per_s", "output tokens/s")
    if RATE in rows.sweep_keys:
        service = Panel("throughput_requests_per_s", "finished requests/s")
    waited = Panel(LATENCY, "normalized latency (s/token)", is_log=True)
    if len(rows.points) > 1 and load_key(rows) in LOAD_KEYS:
        waited = _with_limits(waited, rows, _objective(results, "tpot"))
    return drawn(rows, [service, waited], "Throughput and latency")


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
    panels = (
        Panel("throughput_output_tokens_per_s", "output tokens/s"),
        Panel(wasted, "wasted: internal + external (%)"),
    )
    return against(Rows(summary, rows.sweep_keys, rows.baseline), key, panels, "What the block size changes")


def latency(results: Results, point: Point | None = None) -> Figure:
    """Return how TTFT and TPOT are distributed over the measured requests of all seeds, with the objectives.

    Args:
        results: a results folder.
        point: of the sweep; by default the one with the highest load.
    """
    rows = Rows.of(results)
    point, look = point or rows.heaviest, Look(rows)
    with styled():
        figure, axes = new_figure(7.2, 3.4, 1, 2, sharey=True)
        slowest, fastest = 0.0, math.inf
        for name in named_at(rows, point):
            wanted = ("status", "measured", "ttft_s", "tpot_s")
            runs = (results.requests(str(run), wanted) for run in rows.at(point, name)["run"])
            requests = pd.concat([_measured(run) for run in runs])
            for panel, column in zip(axes[0], ("ttft_s", "tpot_s"), strict=True):
                values = requests[column].dropna().to_numpy(dtype=np.float64)
                if len(values):
                    label = written(name) if column == "ttft_s" else f"_{name}"  # the legend shows it once
                    panel.plot(np.quantile(values, _QUANTILES), 100 * _QUANTILES, label=label, **look.line(name))
                if len(values) and column == "tpot_s":
                    slowest = max(slowest, float(np.quantile(values, 0.995)))
                    fastest = min(fastest, float(np.median(values)))
        for panel, label in zip(axes[0], ("time to first token (s)", "time per output token (s)"), strict=True):
            panel.set(xlabel=label, ylim=(0, 100))
            panel.grid()
        axes[0, 0].set_xscale("log")
        plain_numbers(axes[0, 0].xaxis)
        if slowest > WIDE * fastest > 0:
            axes[0, 1].set_xscale("log")
            axes[0, 1].set_xlim(None, 1.15 * slowest)
            plain_numbers(axes[0, 1].xaxis)
        else:
            axes[0, 1].set_xlim(0, 1.15 * slowest or None)  # the last few of a thousand would squeeze all others
        for panel, key in zip(axes[0], ("ttft", "tpot"), strict=True):
            _mark_objective(panel, _objective(results, key))
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


def _measured(requests: pd.DataFrame) -> pd.DataFrame:
    return requests[(requests["status"] == "finished") & (requests["measured"] == 1)]


def _with_limits(panel: Panel, rows: Rows, objective: float | None) -> Panel:
    """Return the panel of latencies with the objective and, if anybody gives up within the sweep, the knees."""
    key = load_key(rows)
    found = knees(rows, key)
    levels = {objective: f"SLO: TPOT {objective:g} s"} if objective is not None else {}
    inside = {name: place for name, place in found.items() if math.isfinite(place)}
    if not inside:
        return panel._replace(levels=levels)
    levels[LIMIT] = f"{levels[LIMIT]}, limit" if LIMIT in levels else f"limit: {LIMIT:g} s/token"
    first, *_, last = points_along(rows, key)[1] or [math.nan, math.nan]
    ends = {}
    for name, place in found.items():
        outside = f"> {short(last)}" if math.isinf(place) else f"< {short(first)}"
        ends[name] = f"{written(name, 12)}: knee {short(place) if math.isfinite(place) else outside}"
    return panel._replace(levels=levels, rings={name: (place, LIMIT) for name, place in inside.items()}, ends=ends)


def _mark_objective(panel: Axes, objective: float | None) -> None:
    """Draw an objective across a distribution, if the axis reaches it."""
    low, high = panel.get_xlim()
    if objective is None or not low < objective < high:
        return
    panel.axvline(objective, label="_nolegend_", **LEVEL)
    text: dict[str, Any] = {"color": FAINT, "fontsize": 8, "rotation": 90, "ha": "right", "va": "bottom"}
    panel.annotate(f"SLO: {objective:g} s", (objective, 2), xytext=(-2, 0), textcoords="offset points", **text)


def _objective(results: Results | pd.DataFrame, key: str) -> float | None:
    """Return an objective (``ttft``, ``tpot``) in seconds; None if there is none, or if only a summary is there."""
    if not isinstance(results, Results):
        return None
    try:
        objective = (results.config.get("slo") or {}).get(key)
        return None if objective is None else seconds(parse_time(objective))
    except (ConfigError, ValueError):  # the figures can be shown without experiment.yaml
        return None
