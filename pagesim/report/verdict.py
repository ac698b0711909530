"""What the comparison comes to, in a sentence computed from the data."""

from __future__ import annotations

import math
from typing import Final

from pagesim.report.cells import paired
from pagesim.report.rows import Point, Rows
from pagesim.report.statistics import ratio_interval

OUTPUT: Final = "throughput_output_tokens_per_s"
LATENCY: Final = "normalized_latency_s_per_token"

SAME: Final = 0.02
"""Throughputs closer than this are called the same."""


def verdict(rows: Rows) -> str:
    """Return one or two sentences: the best allocator that could be built against the baseline, at the highest load."""
    if not rows.names or rows.baseline is None:
        return "No run is done."
    if rows.seeks_point:
        return _best_point(rows, rows.contenders[0])
    point, base = rows.heaviest, rows.baseline
    where = f"At {point}, " if point.values else ""
    waste = _waste(rows, point, base)
    others = [name for name in rows.contenders if name != base and _known(rows, point, name)]
    if not _known(rows, point, base):
        return f"{where}{'the' if where else 'The'} baseline {base} has no result to compare with."
    if not others:
        return f"{where}{base} serves {rows.mean(point, base, OUTPUT):.4g} output tokens/s{waste}."
    most = max(rows.mean(point, name, OUTPUT) for name in others)
    leading = [name for name in others if rows.mean(point, name, OUTPUT) >= (1 - SAME) * most]
    best = min(leading, key=lambda name: _latency(rows, point, name))
    ratio = rows.mean(point, best, OUTPUT) / rows.mean(point, base, OUTPUT)
    if abs(ratio - 1) <= SAME:
        best = min(others, key=lambda name: _latency(rows, point, name))
        sentence = f"{where}{best} serves as much as {base}" + _latency_ratio(rows, point, best, base)
    elif ratio < 1:
        none = f"{where}none" if where else "None"
        sentence = f"{none} serves more than {base}; {best} comes next with {ratio:.2f}x its output tokens/s"
    else:
        sentence = (
            f"{where}{best} serves {ratio:.2f}x the output tokens/s of {base}{_certainty(rows, point, best, base)}"
        )
        batch = rows.mean(point, best, "mean_batched_requests") / rows.mean(point, base, "mean_batched_requests")
        if math.isfinite(batch) and batch > 1 + SAME:  # with fewer at a time, it is speed that gives the throughput
            sentence += f" and batches {batch:.2f}x the requests"
    return sentence + waste + "."


def _best_point(rows: Rows, name: str) -> str:
    """Return at which point of a sweep the only allocator serves best, and how much better than at the worst."""
    known = [point for point in rows.points if _known(rows, point, name)]
    if not known:
        return f"No run of {name} served anything."
    served = {point.index: rows.mean(point, name, OUTPUT) for point in known}
    most, least = (choose(known, key=lambda point: served[point.index]) for choose in (max, min))
    ratio = served[most.index] / served[least.index]
    if ratio - 1 > SAME:
        return f"{name} serves most at {most}: {ratio:.2f}x the output tokens/s that it serves at {least}, the least."
    best, worst = (choose(known, key=lambda point: _latency(rows, point, name)) for choose in (min, max))
    slower = _latency(rows, worst, name) / _latency(rows, best, name)
    if not math.isfinite(slower) or slower - 1 <= SAME:
        return f"{name} serves the same at every point of the sweep."
    return (
        f"{name} serves the same at every point of the sweep; its normalized latency is lowest at {best} "
        f"and {slower:.2f}x that at {worst}."
    )


def _known(rows: Rows, point: Point, name: str) -> bool:
    value = rows.mean(point, name, OUTPUT)
    return math.isfinite(value) and value > 0


def _latency(rows: Rows, point: Point, name: str) -> float:
    value = rows.mean(point, name, LATENCY)
    return value if math.isfinite(value) else math.inf


def _latency_ratio(rows: Rows, point: Point, name: str, base: str) -> str:
    ratio = rows.mean(point, name, LATENCY) / rows.mean(point, base, LATENCY)
    if not math.isfinite(ratio) or abs(ratio - 1) <= SAME:
        return ", at the same normalized latency"
    return f", at {ratio:.2f}x its normalized latency"


def _certainty(rows: Rows, point: Point, name: str, base: str) -> str:
    interval = ratio_interval(*paired(rows, point, name, base, OUTPUT))
    if interval is None:
        return ""
    bounds = f"95 % interval {interval.low:.2f} to {interval.high:.2f}"
    return f" ({bounds})" if interval.excludes_one else f" ({bounds}: the seeds do not tell it from 1)"


def _waste(rows: Rows, point: Point, name: str) -> str:
    """Return which part of a row's memory serves nobody, and why."""
    held, lost = (100 * rows.mean(point, name, kind) for kind in ("internal", "external"))
    said = [f"{held:.0f} % of the memory of {name} is held for tokens that never come"] if held >= 0.5 else []
    if lost >= 0.5:
        said.append(f"{lost:.0f} % {'' if said else f'of the memory of {name} '}cannot be handed out")
    return f"; {' and '.join(said)}" if said else ""
