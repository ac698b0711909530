"""Figures of a row that need the other rows of its sweep point and seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

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
        tables = [files.read_parquet(folder / layout.RUNS / row["run"] / layout.REQUESTS) for row in group]
        finished = [set(_ids(table, _column(table, "status") == "finished")) for table in tables]
        if all(ids == finished[0] for ids in finished):
            continue
        common = set.intersection(*finished)
        for row, table in zip(group, tables, strict=True):
            if row.get("window") != "all":
                common &= set(_ids(table, _column(table, "measured").astype(bool)))
        wanted = np.array(sorted(common), dtype=np.int64)
        for row, table in zip(group, tables, strict=True):
            chosen = np.isin(_column(table, "request"), wanted)
            row["common_requests"] = len(wanted)
            for name, (column, percentile) in _COMMON.items():
                values = _column(table, column)[chosen].astype(np.float64)
                row[name] = _figure(values[~np.isnan(values)], percentile)


def _comparable(rows: Sequence[Row], sweep_keys: Sequence[str]) -> Iterator[list[Row]]:
    """Yield the rows of each (sweep point, seed): they saw the same requests."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        key = json.dumps([row["seed"], *(row.get(key) for key in sweep_keys)], default=str)
        groups.setdefault(key, []).append(row)
    yield from groups.values()


def _column(table: pa.Table, name: str) -> Any:
    return table.column(name).to_numpy()


def _ids(table: pa.Table, chosen: Any) -> list[int]:
    ids: list[int] = _column(table, "request")[chosen].tolist()
    return ids


def _figure(values: Any, percentile: int | None) -> float | None:
    if not len(values):
        return None
    return float(values.mean() if percentile is None else np.percentile(values, percentile))
