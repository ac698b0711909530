"""The comparison as cells of text: the same for the terminal, Markdown and the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

import numpy as np

from pagesim.report.rows import Point, Rows
from pagesim.report.statistics import ratio_interval

BEST: Final = "*"
ORACLE: Final = "†"
NOTHING: Final = "-"

Better = Literal["high", "low", ""]
Key = tuple[int, str]
"""A sweep point's index and an allocator."""


@dataclass(frozen=True)
class Cell:
    """One figure of one row: its mean, its spread over seeds (empty with one seed), whether it is the best."""

    text: str
    spread: str = ""
    best: bool = False

    def __str__(self) -> str:
        return self.text + (f" ±{self.spread}" if self.spread else "") + (BEST if self.best else "")


@dataclass(frozen=True)
class Column:
    """One figure: a heading of two lines, and its cells by (point, row)."""

    head: str
    unit: str
    cells: dict[Key, Cell]
    is_text: bool = False


@dataclass(frozen=True)
class Figure:
    """Which column of the summary is shown, and how.

    Attributes:
        column: of the summary.
        head: the first line of its heading.
        unit: the second: ``%`` shows a share in per cent, ``s...`` a time, in ms if all are below a second.
        better: which end is the best one.
        group: figures of one group share the unit of time.
        optional: left out where it is 0 or missing in every row.
    """

    column: str
    head: str
    unit: str
    better: Better = ""
    group: str = ""
    optional: bool = False


MEMORY: Final = (
    Figure("utilization", "live", "%", "high"),
    Figure("cached", "cached", "%", optional=True),
    Figure("reserved", "reserved", "%"),
    Figure("internal", "internal", "%"),
    Figure("external", "external", "%"),
    Figure("free", "free", "%"),
    Figure("sharing_saving", "saved by", "sharing %", "high", optional=True),
    Figure("mean_batched_requests", "batched", "requests", "high"),
)
THROUGHPUT: Final = (
    Figure("throughput_requests_per_s", "finished", "req/s", "high"),
    Figure("goodput_requests_per_s", "goodput", "req/s", "high", optional=True),
    Figure("throughput_output_tokens_per_s", "output", "tok/s", "high"),
)
LATENCY: Final = (
    Figure("normalized_latency_s_per_token", "latency", "s/token", "low", "token"),
    Figure("ttft_p50_s", "TTFT p50", "s", "low", "ttft"),
    Figure("ttft_p99_s", "TTFT p99", "s", "low", "ttft"),
    Figure("tpot_mean_s", "TPOT", "s", "low", "tpot"),
)
COUNTS: Final = (
    Figure("preemptions", "preempted", "times"),
    Figure("refused", "refused", "requests", optional=True),
    Figure("unfinished", "unfinished", "requests", optional=True),
)
COMMON: Final = (
    Figure("common_requests", "common", "requests"),
    Figure("common_normalized_latency_s_per_token", "latency", "s/token", "low", "token"),
    Figure("common_ttft_p50_s", "TTFT p50", "s", "low", "ttft"),
    Figure("common_ttft_p99_s", "TTFT p99", "s", "low", "ttft"),
    Figure("common_tpot_mean_s", "TPOT", "s", "low", "tpot"),
)
"""Over the requests that all rows finished, where they finished different ones."""


class Line(NamedTuple):
    """One line of a table: its label, and the sweep point and allocator that it shows."""

    label: str
    key: Key


class Group(NamedTuple):
    """Lines under a heading (empty without a sweep)."""

    heading: str
    lines: list[Line]


@dataclass(frozen=True)
class Table:
    """Columns over the same lines, with a title."""

    title: str
    groups: list[Group]
    columns: list[Column] = field(default_factory=list)

    @property
    def lines(self) -> list[Line]:
        """All lines, in order."""
        return [line for group in self.groups for line in group.lines]


def groups(rows: Rows) -> list[Group]:
    """Return the lines: the allocators of each sweep point, or the points of the only allocator that is swept."""
    there = [(point, name) for point in rows.points for name in rows.names if len(rows.at(point, name))]
    if rows.compares_points:
        return [
            Group(mark(rows, name), [Line(str(point), (point.index, name)) for point, other in there if other == name])
            for name in rows.names
        ]
    return [
        Group(str(point), [Line(mark(rows, name), (point.index, name)) for other, name in there if other is point])
        for point in rows.points
    ]


def mark(rows: Rows, name: str) -> str:
    """Return a row's name, marked if it knows the future."""
    return f"{name} {ORACLE}" if rows.is_oracle(name) else name


def tables(rows: Rows) -> list[Table]:
    """Return the tables of a comparison: memory, service and, where finished sets differ, common requests."""
    lines = groups(rows)
    shown = [figure for figure in THROUGHPUT if figure.column != "goodput_requests_per_s" or _has_goodput(rows)]
    throughput = [*figures(rows, shown), *_ratios(rows)]
    latency, counts = figures(rows, LATENCY), figures(rows, COUNTS)
    memory = MEMORY if _largest(rows, ["sharing_saving"]) <= 0 else _without_best(MEMORY, "utilization")
    found = [Table("Memory: shares of the pool over time", lines, [*figures(rows, memory), _limited_by(rows)])]
    if len(rows.seeds) > 1:  # spreads make columns wide
        found += [Table("Throughput", lines, [*throughput, *counts]), Table("Latency", lines, latency)]
    else:
        found.append(Table("Service", lines, [*throughput, *latency, *counts]))
    if "common_requests" in rows.summary and rows.summary["common_requests"].notna().any():
        found.append(Table("Latency over the requests that every row finished", lines, figures(rows, COMMON)))
    return found


def _without_best(wanted: Sequence[Figure], column: str) -> list[Figure]:
    """Return figures of which one marks no best row: where blocks are shared, fewer live slots hold as many tokens."""
    return [replace(figure, better="") if figure.column == column else figure for figure in wanted]


def figures(rows: Rows, wanted: Sequence[Figure]) -> list[Column]:
    """Return columns of figures, formatted alike within a column."""
    wanted = [figure for figure in wanted if not figure.optional or _largest(rows, [figure.column]) > 0]
    columns = []
    for figure in wanted:
        same_unit = [other.column for other in wanted if figure.group and other.group == figure.group]
        factor, unit = 1.0, figure.unit
        if unit.startswith("%") or unit.endswith("%"):
            factor = 100.0
        elif figure.group and 0 < _largest(rows, same_unit) < 1:
            factor, unit = 1000.0, "m" + unit
        columns.append(_column(rows, figure, factor, unit))
    return columns


def decimals(values: Iterable[float]) -> int:
    """Return how many decimals show the smallest value with three digits and the largest with at most five."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value != 0]
    if not sizes:
        return 0
    smallest, largest = (math.floor(math.log10(size)) for size in (min(sizes), max(sizes)))
    return max(0, min(2 - smallest, 4 - largest, 4))


def _column(rows: Rows, figure: Figure, factor: float, unit: str) -> Column:
    keys = [(point, name) for point in rows.points for name in rows.names if len(rows.at(point, name))]
    means = {(point.index, name): factor * _mean(rows, point, name, figure.column) for point, name in keys}
    is_count = figure.column in ("refused", "unfinished", "preemptions", "common_requests")
    places = 1 if unit.endswith("%") else decimals(means.values())
    if is_count and all(value == round(value) for value in means.values() if math.isfinite(value)):
        places = 0
    cells = {}
    for point, name in keys:
        mean = means[point.index, name]
        if not math.isfinite(mean):
            cells[point.index, name] = Cell(NOTHING)
            continue
        spread = factor * rows.spread(point, name, figure.column)
        shown = f"{spread:.{places}f}" if math.isfinite(spread) and not is_count else ""
        cells[point.index, name] = Cell(f"{mean:.{places}f}", shown, _is_best(rows, point, name, figure, means, places))
    return Column(figure.head, unit, cells)


def _is_best(rows: Rows, point: Point, name: str, figure: Figure, means: dict[Key, float], places: int) -> bool:
    """Return whether a line is the best of those that could be built; nobody is if all are equal.

    Allocators are compared at the same sweep point; where there is but one, its points are.
    """
    if not figure.better or name not in rows.contenders or (rows.compares_points and not rows.seeks_point):
        return False
    rivals = [
        (other, row)
        for other, row in means
        if row in rows.contenders and (row == name if rows.compares_points else other == point.index)
    ]
    shown = {round(means[key], places) for key in rivals if math.isfinite(means[key])}
    if len(shown) < 2:
        return False
    return round(means[point.index, name], places) == (max if figure.better == "high" else min)(shown)


def _mean(rows: Rows, point: Point, name: str, column: str) -> float:
    if column == "preemptions":
        return sum(rows.mean(point, name, f"preemptions_{kind}") for kind in ("recompute", "swap"))
    return rows.mean(point, name, column)


def _largest(rows: Rows, columns: Sequence[str]) -> float:
    values = [_mean(rows, point, name, column) for column in columns for point in rows.points for name in rows.names]
    return max((value for value in values if math.isfinite(value)), default=0.0)


def _has_goodput(rows: Rows) -> bool:
    columns = ("goodput_requests_per_s", "throughput_requests_per_s")
    if not all(column in rows.summary for column in columns):
        return False
    return bool((rows.summary[columns[0]] < rows.summary[columns[1]]).any())


def _ratios(rows: Rows) -> list[Column]:
    """Return output tokens/s over the baseline's, with an interval over seeds, and over the ideal's."""
    column = "throughput_output_tokens_per_s"
    ratio: dict[Key, Cell] = {}
    interval: dict[Key, Cell] = {}
    for point in rows.points:
        base = rows.mean(point, rows.baseline, column) if rows.baseline is not None else np.nan
        for name in rows.names:
            if not len(rows.at(point, name)):
                continue
            own = rows.mean(point, name, column)
            known = math.isfinite(own) and math.isfinite(base) and base > 0
            ratio[point.index, name] = Cell(f"{own / base:.2f}" if known else NOTHING)
            if name != rows.baseline and rows.baseline is not None:
                bounds = ratio_interval(*paired(rows, point, name, rows.baseline, column))
                interval[point.index, name] = Cell(f"{bounds.low:.2f} to {bounds.high:.2f}" if bounds else NOTHING)
            else:
                interval[point.index, name] = Cell("")
    rivals = [name for name in rows.names if name != rows.baseline and not rows.is_bound(name)]
    found = [Column("ratio", f"to {rows.baseline}", ratio)] if rivals else []
    if rivals and len(rows.seeds) > 1:
        found.append(Column("95 %", "interval", interval))
    if any(rows.is_bound(name) for name in rows.names):
        found += figures(rows, [Figure("share_of_ideal", "of ideal", "%")])
    return found


def paired(
    rows: Rows, point: Point, name: str, baseline: str, column: str
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return a figure of two rows, in the order of the seeds that both have."""
    by_seed = [
        dict(zip(rows.at(point, row)["seed"].tolist(), rows.values(point, row, column), strict=True))
        for row in (name, baseline)
    ]
    seeds = [seed for seed in by_seed[0] if seed in by_seed[1]]
    return np.array([by_seed[0][seed] for seed in seeds]), np.array([by_seed[1][seed] for seed in seeds])


def _limited_by(rows: Rows) -> Column:
    """Return what held admission for the largest share of the time, with that share."""
    cells = {}
    for point in rows.points:
        for name in rows.names:
            chosen = rows.at(point, name)
            if not len(chosen):
                continue
            reasons = [str(reason) for reason in chosen["limited_by"].dropna()]
            if not reasons:
                cells[point.index, name] = Cell(NOTHING)
                continue
            reason = max(dict.fromkeys(reasons), key=reasons.count)
            share = rows.mean(point, name, f"limited_{reason}")
            cells[point.index, name] = Cell(f"{reason} {100 * share:.0f} %" if math.isfinite(share) else reason)
    return Column("limited by", "share of time", cells, is_text=True)
