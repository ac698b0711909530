"""What has to be known to read a comparison, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pagesim.errors import ConfigError
from pagesim.report.cells import COUNTS, Key, figures
from pagesim.report.rows import Rows
from pagesim.results import Results


def notes(source: Results | pd.DataFrame | Rows, rows: Rows) -> list[str]:
    """Return the notes below a table: what failed, was refused or cut off, overload, and how figures were taken."""
    results = source if isinstance(source, Results) else None
    return [
        *(results.problems if results else []),
        *_refusals(rows, results),
        *_unfinished(rows),
        *_different_sets(rows),
        *_overload(rows),
        *_window(rows),
        *_beyond_ideal(rows),
        *_seeds(rows),
    ]


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names as a list for people: ``a, b and c``."""
    names = [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _refusals(rows: Rows, results: Results | None) -> list[str]:
    """Return how many requests each row refused at each point: means over seeds, as the table has them."""
    shown = _cells(rows, "refused")
    found = []
    for name in rows.names:
        told = []
        for point in rows.points:
            if not rows.mean(point, name, "refused") > 0:
                continue
            offered = sum(np.nan_to_num(rows.mean(point, name, how)) for how in ("finished", "refused", "unfinished"))
            where = f" at {point}" if point.values else ""
            told.append(f"{shown[point.index, name]} of {offered:.10g} requests{where}")
        if told:
            mine = rows.summary[rows.summary["allocator"] == name]
            found.append(f"{name} refused {listed(told)}{_over_seeds(rows)}{_reasons(mine, results)}")
    return found


def _reasons(mine: pd.DataFrame, results: Results | None, most: int = 3) -> str:
    """Return why requests were refused, with the share of each reason where there are several."""
    if results is None:
        return ""
    counts: dict[str, int] = {}
    for run in mine.loc[mine["refused"] > 0, "run"]:
        try:
            requests = results.requests(str(run), ("status", "reason"))
        except ConfigError:  # the numbers are in the summary; only the reasons are lost
            return ""
        reasons = requests.loc[requests["status"] == "refused", "reason"]
        for reason, count in reasons.value_counts().items():
            counts[str(reason)] = counts.get(str(reason), 0) + int(count)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ranked) == 1:
        return f": {ranked[0][0]}"
    total = sum(counts.values())
    shown = [f"{100 * count / total:.0f} % {reason}" for reason, count in ranked[:most]]
    if len(ranked) > most:
        shown.append(f"{100 * sum(count for _, count in ranked[most:]) / total:.0f} % for other reasons")
    return f": {'; '.join(shown)}" if shown else ""


def _unfinished(rows: Rows) -> list[str]:
    """Return how many requests each row had not finished: means over seeds, as the table has them."""
    shown = _cells(rows, "unfinished")
    told = []
    for point in rows.points:
        cut = [f"{name} {shown[point.index, name]}" for name in rows.names if rows.mean(point, name, "unfinished") > 0]
        if cut:
            told.append(f"{listed(cut)}{f' at {point}' if point.values else ''}")
    what = f"requests that had not finished when the run was cut off{_over_seeds(rows)}"
    return [f"{what}: {'; '.join(told)}"] if told else []


def _cells(rows: Rows, count: str) -> dict[Key, str]:
    """Return what the table shows of a count, so that a note says the same."""
    return {
        key: cell.text
        for column in figures(rows, [figure for figure in COUNTS if figure.column == count])
        for key, cell in column.cells.items()
    }


def _over_seeds(rows: Rows) -> str:
    return f" (mean over {len(rows.seeds)} seeds)" if len(rows.seeds) > 1 else ""


def _different_sets(rows: Rows) -> list[str]:
    if "common_requests" not in rows.summary or not rows.summary["common_requests"].notna().any():
        return []
    common = rows.summary["common_requests"].dropna().astype(int)
    least, largest = common.min(), common.max()
    span = f"{least}" if least == largest else f"{least} to {largest}"
    return [
        "rows finished different requests, so their latencies are not over the same ones: "
        f"the last table is over the {span} requests that every row finished"
    ]


def _overload(rows: Rows) -> list[str]:
    if "overloaded" not in rows.summary:
        return []
    found = []
    for point in rows.points:
        names = [name for name in rows.names if rows.at(point, name)["overloaded"].fillna(False).astype(bool).any()]
        if names:
            found.append((str(point), names))
    if not found:
        return []
    text = "; ".join(f"{listed(names)}{f' at {point}' if point else ''}" for point, names in found)
    return [f"overloaded (the queue grew over the window, so latencies depend on its length): {text}"]


def _window(rows: Rows) -> list[str]:
    if "window" not in rows.summary:
        return []
    whole = rows.summary["window"] == "all"
    if rows.window == "all" or (rows.window is None and whole.all()):
        return ["figures are over the whole run"]
    names = [str(run) for run in rows.summary.loc[whole, "run"]]
    return [f"no steady part could be measured; figures are over the whole run of {listed(names)}"] if names else []


def _beyond_ideal(rows: Rows) -> list[str]:
    if "share_of_ideal" not in rows.summary:
        return []
    above = rows.summary.loc[rows.summary["share_of_ideal"] > 1.005, "allocator"]
    names = [str(name) for name in dict.fromkeys(above)]
    if not names:
        return []
    return [f"{listed(names)} above 100 % of ideal: whoever admits less may be preempted less; the bound is on memory"]


def _seeds(rows: Rows) -> list[str]:
    return [] if len(rows.seeds) > 1 else ["one seed: no confidence interval"]
