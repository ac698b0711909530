"""One table over one or several results folders, and conditions on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

import pandas as pd
from rich.console import Console

from pagesim.errors import ConfigError
from pagesim.report import table
from pagesim.report.cells import paired
from pagesim.report.condition import Condition
from pagesim.report.notes import listed, notes
from pagesim.report.rows import Point, Rows
from pagesim.report.statistics import ratio_interval
from pagesim.report.verdict import verdict
from pagesim.results import Results
from pagesim.results.columns import FIGURES

RATIOS: Final = (
    "utilization",
    "mean_batched_requests",
    "throughput_requests_per_s",
    "throughput_output_tokens_per_s",
    "goodput_requests_per_s",
    "normalized_latency_s_per_token",
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "e2e_mean_s",
)
"""Figures whose ratio to the baseline is given, with an interval over seeds."""


class Comparison:
    """Results side by side.

    With several folders, each gets a letter, and its rows are called ``A/max``.

    Attributes:
        results: the folders.
        letters: of the folders; empty with one.
        rows: of all of them.
        warnings: why the comparison may not be fair; only with ``force``.
    """

    def __init__(self, results: Sequence[Results], warnings: Sequence[str] = ()) -> None:
        self.results = list(results)
        self.letters = list(ascii_uppercase[: len(results)]) if len(results) > 1 else []
        self.warnings = list(warnings)
        self.rows = Rows.of(results[0]) if not self.letters else self._side_by_side()

    def render(self, console: Console) -> None:
        """Print the table, the verdict and the notes."""
        for line in [*self._folders(), *self.warnings]:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        table.render(self._source, console)
        for letter, results in zip(self.letters, self.results, strict=False):
            for problem in results.problems:
                console.print(f"- {letter}: {problem}", soft_wrap=True, markup=False, highlight=False)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data: means, standard deviations, ratios with their intervals, notes."""
        rows = self.rows
        return {
            "folders": [_describe(results) for results in self.results],
            "baseline": rows.baseline,
            "seeds": rows.seeds,
            "points": [
                {
                    "values": {key: _plain(value) for key, value in point.values.items()},
                    "rows": {name: self._row(point, name) for name in rows.names if len(rows.at(point, name))},
                }
                for point in rows.points
            ],
            "verdict": verdict(rows),
            "notes": [*self.warnings, *notes(self._source, rows)],
        }

    def violations(self, condition: str) -> list[str]:
        """Return where a condition holds, a sentence each; also where it cannot be told, for want of a figure.

        Figures are means over seeds; every sweep point is looked at. Raises ConfigError on a bad condition.
        """
        rows = self.rows
        numbers = [str(name) for name in rows.summary if _is_numeric(rows.summary[name])]
        known = [*rows.names, *(name for name in self._planned() if name not in rows.names)]
        parsed = Condition(condition, known, numbers)
        turns: list[str | None] = [None]
        if parsed.is_for_every_row:
            turns = [name for name in rows.names if not rows.is_bound(name)]
        found = []
        for point in rows.points:
            where = f" at {point}" if point.values else ""
            for turn in turns:
                if (sentence := self._violation(parsed, point, turn)) is not None:
                    found.append(f"{sentence}{where}")
        return found

    @property
    def _source(self) -> Results | Rows:
        return self.rows if self.letters else self.results[0]

    def _violation(self, condition: Condition, point: Point, turn: str | None) -> str | None:
        values: dict[str, float] = {}

        def look(row: str | None, column: str) -> float:
            name = row if row is not None else str(turn)
            value = self.rows.mean(point, name, column)
            if not math.isfinite(value):
                raise _MissingError(f"{name}.{column} has no value")
            values[f"{name}.{column}"] = value
            return value

        try:
            if not condition.holds(look):
                return None
        except _MissingError as error:
            return f"cannot tell whether {condition.text}: {error}"
        except ZeroDivisionError:
            return f"cannot tell whether {condition.text}: it divides by 0"
        return f"{condition.text}: {listed([f'{name} is {value:.6g}' for name, value in values.items()])}"

    def _planned(self) -> Iterator[str]:
        """Yield the rows that were to be run, whether they were or not."""
        for index, results in enumerate(self.results):
            try:
                names = [*(results.config.get("allocators") or {})]
            except ConfigError:
                continue
            yield from (f"{self.letters[index]}/{name}" if self.letters else str(name) for name in names)

    def _row(self, point: Point, name: str) -> dict[str, Any]:
        rows = self.rows
        columns = [column for column, kind in FIGURES.items() if kind is not str and column in rows.summary]
        ratios = {}
        if rows.baseline is not None and len(rows.at(point, rows.baseline)):
            for column in (column for column in RATIOS if column in rows.summary):
                base = rows.mean(point, rows.baseline, column)
                interval = ratio_interval(*paired(rows, point, name, rows.baseline, column))
                ratios[column] = {
                    "ratio": _plain(rows.mean(point, name, column) / base if base else math.nan),
                    "interval_95": list(interval) if interval else None,
                }
        return {
            "mean": {column: _plain(rows.mean(point, name, column)) for column in columns},
            "standard_deviation": {column: _plain(rows.spread(point, name, column)) for column in columns},
            "ratio_to_baseline": ratios,
            "num_seeds": len(rows.at(point, name)),
        }

    def _folders(self) -> list[str]:
        if not self.letters:
            return []
        lines = []
        for letter, results in zip(self.letters, self.results, strict=True):
            made = [str(results.manifest[key])[:10] for key in ("pagesim", "commit") if results.manifest.get(key)]
            lines.append(f"{letter}  {results.name}  {results.folder}  (pagesim {', '.join(made)})")
        return [*lines, ""]

    def _side_by_side(self) -> Rows:
        keys = list(dict.fromkeys(key for results in self.results for key in results.sweep_keys))
        parts = []
        for letter, results in zip(self.letters, self.results, strict=True):
            part = results.summary.copy()
            part["allocator"] = letter + "/" + part["allocator"].astype(str)
            for key in keys:
                if key not in part:
                    part[key] = _setting(results, key)
            parts.append(part)
        first = Rows.of(self.results[0])
        baseline = f"{self.letters[0]}/{first.baseline}"
        return Rows(pd.concat(parts, ignore_index=True), keys, baseline, first.window)


class _MissingError(Exception):
    """A figure that a condition needs is not there."""


def compare(folders: Sequence[str | Path], force: bool = False) -> Comparison:
    """Put results side by side.

    Args:
        folders: results folders, or names of experiments for their latest.
        force: compare even where the requests were not the same, and say so.

    Raises ConfigError if a folder is no results folder, or if the rows did not see the same requests.
    """
    if not folders:
        raise ConfigError("name at least one results folder to compare")
    if len(folders) > len(ascii_uppercase):
        raise ConfigError(f"{len(folders)} results folders are too many for one table; at most {len(ascii_uppercase)}")
    comparison = Comparison([Results.load(folder) for folder in folders])
    differing = _differing(comparison)
    if differing and not force:
        raise ConfigError(f"{differing}; ratios would mean nothing (--force compares all the same)")
    return Comparison(comparison.results, [f"Not the same requests: {differing}."]) if differing else comparison


def _differing(comparison: Comparison) -> str:
    """Return in which way the workloads of the folders differ; empty if they do not."""
    seen: dict[tuple[Any, ...], tuple[str, str]] = {}
    shared = not comparison.letters
    letters = comparison.letters or [""]
    rows = comparison.rows
    for letter, results in zip(letters, comparison.results, strict=True):
        digests = results.digests
        prefix = f"{letter}/" if letter else ""
        mine = rows.summary[rows.summary["allocator"].str.startswith(prefix)]
        for row in mine.to_dict("records"):
            digest = digests.get(str(row["run"]))
            if digest is None:
                continue
            key = (row["seed"], *(row[key] for key in rows.sweep_keys))
            other, known = seen.setdefault(key, (letter, digest))
            shared = shared or other != letter
            if digest != known:
                point = ", ".join(f"{name} {value}" for name, value in zip(rows.sweep_keys, key[1:], strict=True))
                whose = f"{letter} and {other}" if letter != other else "the rows"
                return f"the workloads of {whose} differ for seed {key[0]}{f' at {point}' if point else ''}"
    if not shared and all(len(results.digests) for results in comparison.results):
        return "the folders have no seed and sweep point in common"
    return ""


def _setting(results: Results, key: str) -> Any:
    """Return the value of a dotted key that other folders sweep."""
    value: Any = results.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return "-" if value is None else value


def _describe(results: Results) -> dict[str, Any]:
    keys = ("state", "started", "pagesim", "commit", "config_hash")
    return {"name": results.name, "folder": str(results.folder), **{key: results.manifest.get(key) for key in keys}}


def _is_numeric(column: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column))


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
