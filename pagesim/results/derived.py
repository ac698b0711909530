"""Figures of a row that need the other rows of its sweep point and seed."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pagesim.numbers import Numbers
from pagesim.results import files, layout

Row = dict[str, Any]

IDEAL: Final = "ideal"
"""The row, and the policy, that is a bound."""

_COMMON: Final = {
    "common_normalized_latency_s_per_token": ("normalized_latency_s_per_token", None),
    "common_ttft_mean_s": ("ttft_s", None),
    "common_ttft_p50_s": ("ttft_s", 50),
    "common_ttft_p99_s": ("ttft_s", 99),
    "common_tpot_mean_s": ("tpot_s", None),
    "common_e2e_mean_s": ("e2e_s", None),
}
"""Column of the summary -> column of the requests, and which percentile of it (None: the mean)."""


def add_share_of_ideal(rows: Sequence[Row], sweep_keys: Sequence[str]) -> None:
    """Set ``share_of_ideal``: output tokens/s over those of the row ``ideal`` at the same point with the same seed."""
    for group in _comparable(rows, sweep_keys):
        bound = next((row for row in group if row["allocator"] == IDEAL and row.get("policy") == IDEAL), None)
        rate = bound.get("throughput_output_tokens_per_s") if bound else None
        for row in group:
            own = row.get("throughput_output_tokens_per_s")
            row["share_of_ideal"] = own / rate if rate and own is not None else None


def add_common_figures(rows: Sequence[Row], sweep_keys: Sequence[str], folder: Path) -> None:
    """Where rows finished different requests, add figures over those that all of them finished.

    Sets ``common_requests`` and the latencies over them, and leaves rows alone whose group agrees.
    As everywhere, figures are over requests that arrived inside the measuring window.
    """
    for group in _comparable(rows, sweep_keys):
        if len(group) < 2 or not any(row.get("refused") or row.get("unfinished") for row in group):
            continue
        paths = [folder / layout.RUNS / row["run"] / layout.REQUESTS for row in group]
        finished = [_finished(path, measured=False) for path in paths]
        if all(np.array_equal(ids, finished[0]) for ids in finished):
            continue
        measured = [
            _finished(path, measured=True) for row, path in zip(group, paths, strict=True) if row.get("window") != "all"
        ]
        common = functools.reduce(np.intersect1d, [*finished, *measured])
        for row, path in zip(group, paths, strict=True):
            row["common_requests"] = len(common)
            row |= _figures(path, common)


def _comparable(rows: Sequence[Row], sweep_keys: Sequence[str]) -> Iterator[list[Row]]:
    """Yield the rows of each (sweep point, seed): they saw the same requests."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        key = json.dumps([row["seed"], *(row.get(key) for key in sweep_keys)], default=str)
        groups.setdefault(key, []).append(row)
    yield from groups.values()


def _finished(path: Path, *, measured: bool) -> NDArray[np.int64]:
    """Return the numbers of the requests that finished, or of those that arrived inside the measuring window."""
    found = [np.empty(0, dtype=np.int64)]
    column = "measured" if measured else "status"
    for rows in files.read_batches(path, ("request", column)):
        found.append(rows["request"][rows[column].astype(bool) if measured else rows[column] == "finished"])
    return np.concatenate(found)


def _figures(path: Path, chosen: NDArray[np.int64]) -> dict[str, float | None]:
    """Return the common figures of one run."""
    columns = {column: Numbers() for column, _ in _COMMON.values()}
    for rows in files.read_batches(path, ("request", *columns)):
        among = np.isin(rows["request"], chosen)
        for column, numbers in columns.items():
            numbers.extend(rows[column][among].astype(np.float64))
    return {
        name: columns[column].mean() if percentile is None else columns[column].percentiles([percentile])[0]
        for name, (column, percentile) in _COMMON.items()
    }
