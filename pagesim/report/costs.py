"""Figures of what memory policies cost and gain: time, preemptions, sharing, the distance to the bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from pagesim.errors import ConfigError
from pagesim.report.panels import Panel, any_above, drawn, stacked
from pagesim.report.rows import Point, Rows
from pagesim.report.style import EMPTY
from pagesim.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMES: Final[dict[str, tuple[str, str]]] = {
    "time_weights": ("weights", "#0072b2"),
    "time_attention": ("attention", "#56b4e9"),
    "time_prefill": ("prefill", "#009e73"),
    "time_recompute": ("recompute", "#d55e00"),
    "time_copies": ("copies", "#cc79a7"),
    "time_swaps": ("swaps", "#e69f00"),
    "time_overhead": ("overhead", "#8d7a9e"),
    "time_idle": ("idle", EMPTY),
}
"""What the device did, in the order of the bars: name on the figure, and colour."""

_GIB: Final = 2**30


def time(results: Results | pd.DataFrame, point: Point | None = None) -> Figure:
    """Return where the time of each allocator went as a stacked bar, averaged over seeds.

    Args:
        results: a results folder, or a summary.
        point: of the sweep; by default the one with the highest load.

    Raises ConfigError if the results do not say where the time went.
    """
    rows = Rows.of(results)
    if not has_times(rows):
        raise ConfigError("a figure of time needs the shares time_weights ... time_idle, which these results lack")
    label = "share of the measured time (%)"
    return stacked(rows, point or rows.heaviest, TIMES, label, "Where the time goes", ncols=len(TIMES))


def preemption(results: Results | pd.DataFrame) -> Figure:
    """Return what preemptions cost against what is swept; without a sweep, a bar an allocator.

    Preemptions, the tokens computed again, the bytes that went over the host link in both directions, and the
    time that steps waited for them; what no run has is left out. Raises ConfigError if nobody was preempted.
    """
    rows = Rows.of(results)
    if not has_preemptions(rows):
        raise ConfigError("a figure of preemptions needs some: no request of these results was preempted")
    summary = rows.summary.assign(
        preemptions=_sum(rows.summary, "preemptions_recompute", "preemptions_swap"),
        swapped_gib=_sum(rows.summary, "swapped_out_bytes", "swapped_in_bytes") / _GIB,
    )
    counted = Rows(summary, rows.sweep_keys, rows.baseline)
    panels = (
        Panel("preemptions", "preemptions"),
        Panel("recomputed_tokens", "recomputed tokens"),
        Panel("swapped_gib", "swapped out and in (GiB)"),
        Panel("swap_stall_s", "steps waited for swaps (s)"),
    )
    shown = [panel for panel in panels if any_above(counted, [panel.column])]
    return drawn(counted, shown, "What preemptions cost")


def sharing(results: Results | pd.DataFrame) -> Figure:
    """Return the share of blocks that sharing saves, and the blocks copied, against what is swept or as bars.

    Raises ConfigError if nothing is shared.
    """
    rows = Rows.of(results)
    if not has_sharing(rows):
        raise ConfigError("a figure of sharing needs blocks that are shared: these results have none")
    summary = rows.summary.assign(saved=100 * pd.to_numeric(rows.summary["sharing_saving"]))
    panels = [Panel("saved", "blocks saved by sharing (%)")]
    if any_above(rows, ["copied_blocks"]):
        panels.append(Panel("copied_blocks", "copied blocks"))
    return drawn(Rows(summary, rows.sweep_keys, rows.baseline), panels, "What sharing saves")


def ideal(results: Results | pd.DataFrame) -> Figure:
    """Return output tokens/s over those of the bound, against what is swept or as bars.

    Raises ConfigError if the results have no bound to compare with.
    """
    rows = Rows.of(results)
    if not has_ideal(rows):
        raise ConfigError("a figure of the share of ideal needs the row `ideal` beside another (ideal: true)")
    own = ~rows.summary["allocator"].map(rows.is_bound).to_numpy(dtype=np.bool_)
    summary = rows.summary[own]
    summary = summary.assign(of_ideal=100 * pd.to_numeric(summary["share_of_ideal"]))
    panel = Panel("of_ideal", "output tokens/s (% of ideal)", levels={100.0: "ideal"})
    return drawn(Rows(summary, rows.sweep_keys, rows.baseline), [panel], "How close to the bound")


def has_times(rows: Rows) -> bool:
    """Return whether the results say where the time went."""
    return any_above(rows, list(TIMES))


def has_preemptions(rows: Rows) -> bool:
    """Return whether any request was preempted."""
    return any_above(rows, ["preemptions_recompute", "preemptions_swap"])


def has_sharing(rows: Rows) -> bool:
    """Return whether sharing saves a block in any run."""
    return any_above(rows, ["sharing_saving"])


def has_ideal(rows: Rows, least: float = 0.0) -> bool:
    """Return whether an allocator other than the bound has a share of it, and one that is ``least`` from 1."""
    if "share_of_ideal" not in rows.summary:
        return False
    return any(
        bool((np.abs(rows.values(point, name, "share_of_ideal") - 1) >= least).any())
        for point in rows.points
        for name in rows.names
        if not rows.is_bound(name)
    )


def _sum(summary: pd.DataFrame, *columns: str) -> pd.Series[float]:
    there = [column for column in columns if column in summary]
    return sum((pd.to_numeric(summary[column]) for column in there), pd.Series(0.0, summary.index))
