"""The summary arranged for people: rows by sweep point, over seeds, with the names that they go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pagesim.errors import ConfigError
from pagesim.results import Results

IDEAL: Final = "ideal"

SWEEP_LABELS: Final = {
    "workload.arrivals.rate": "arrival rate (requests/s)",
    "workload.arrivals.num_clients": "clients",
    "workload.arrivals.cv": "burstiness of arrivals (cv)",
    "workload.trace.rate_scale": "rate over the trace's",
    "workload.num_requests": "requests",
    "workload.sampling.n": "samples a request",
    "workload.sampling.beam_width": "beam width",
    "workload.estimate.cv": "error of the length estimate (cv)",
    "workload.prefix.tokens": "shared prefix (tokens)",
    "memory.kv_cache": "KV cache",
    "memory.watermark": "watermark (share of blocks)",
    "tensor_parallel": "tensor-parallel degree",
}
"""How the keys that are swept most are called on an axis."""

LOAD_KEYS: Final = ("workload.arrivals.rate", "workload.trace.rate_scale", "workload.arrivals.num_clients")
"""Keys of a sweep of which more means more load."""


@dataclass(frozen=True)
class Point:
    """One point of a sweep: its place in the order of the summary, and its values by key."""

    index: int
    values: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{short_key(key)} {show_value(value)}" for key, value in self.values.items())


class Rows:
    """A summary, by row and sweep point.

    Args:
        summary: as ``Results.summary`` gives it.
        sweep_keys: which of its columns are swept; by default those between ``seed`` and ``utilization``.
        baseline: the row that ratios refer to; by default the first.
        window: what the experiment asked for: ``steady`` or ``all``.

    Attributes:
        names: of the allocators, in the order of the summary.
        points: of the sweep; a single empty one without a sweep.
    """

    def __init__(
        self,
        summary: pd.DataFrame,
        sweep_keys: Sequence[str] | None = None,
        baseline: str | None = None,
        window: str | None = None,
    ) -> None:
        if sweep_keys is None:
            names = list(summary.columns)
            sweep_keys = names[names.index("seed") + 1 : names.index("utilization")]
        self.summary = summary
        self.sweep_keys = [key for key in sweep_keys if key in summary]
        self.names = [str(name) for name in dict.fromkeys(summary["allocator"])]
        self.baseline = baseline if baseline in self.names else next(iter(self.names), None)
        self.window = window
        self.points, self._point_of_row = self._find_points()

    @classmethod
    def of(cls, source: Results | pd.DataFrame | Rows) -> Rows:
        """Arrange a results folder, or a summary alone."""
        if isinstance(source, Rows):
            return source
        if isinstance(source, pd.DataFrame):
            return cls(source)
        try:
            window = (source.config.get("measure") or {}).get("window")
        except ConfigError:  # the figures can be shown without experiment.yaml
            window = None
        return cls(source.summary, source.sweep_keys, source.baseline, window)

    def at(self, point: Point, name: str | None = None) -> pd.DataFrame:
        """Return the rows of the summary at a sweep point, one a seed; of one allocator or of all."""
        chosen = self._point_of_row == point.index
        if name is not None:
            chosen = chosen & (self.summary["allocator"] == name).to_numpy()
        found: pd.DataFrame = self.summary.loc[chosen]
        return found

    def values(self, point: Point, name: str, column: str) -> NDArray[np.float64]:
        """Return a figure of a row at a point, one a seed; NaN where it has none."""
        rows = self.at(point, name)
        if column not in rows:
            return np.full(len(rows), np.nan)
        return pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)

    def mean(self, point: Point, name: str, column: str) -> float:
        """Return the mean over seeds of a figure; NaN if no run has it."""
        values = self.values(point, name, column)
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else np.nan

    def spread(self, point: Point, name: str, column: str) -> float:
        """Return the standard deviation over seeds of a figure; NaN with fewer than two."""
        values = self.values(point, name, column)
        values = values[~np.isnan(values)]
        return float(values.std(ddof=1)) if len(values) > 1 else np.nan

    def flag(self, name: str, column: str) -> bool:
        """Return whether any run of a row has a boolean column set."""
        rows = self.summary[self.summary["allocator"] == name]
        return column in rows and bool(rows[column].fillna(False).astype(bool).any())

    def is_bound(self, name: str) -> bool:
        """Return whether a row is the added bound and no allocator that could be built."""
        rows = self.summary[self.summary["allocator"] == name]
        return name.rpartition("/")[2] == IDEAL and bool((rows["policy"] == IDEAL).all())

    def is_oracle(self, name: str) -> bool:
        """Return whether a row knows the future (the bound is told apart)."""
        return self.flag(name, "oracle") and not self.is_bound(name)

    @cached_property
    def contenders(self) -> list[str]:
        """The rows among which a best one is sought: neither the bound nor those that know the future."""
        return [name for name in self.names if not self.is_bound(name) and not self.is_oracle(name)]

    @property
    def compares_points(self) -> bool:
        """Whether the sweep points are what is compared: there is but one allocator that could be built."""
        return len(self.points) > 1 and len(self.contenders) == 1

    @property
    def seeks_point(self) -> bool:
        """Whether one of the points can be called the best: more load is no better and no worse."""
        return self.compares_points and not any(key in LOAD_KEYS for key in self.sweep_keys)

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds that any row has."""
        return [int(seed) for seed in dict.fromkeys(self.summary["seed"])]

    @cached_property
    def heaviest(self) -> Point:
        """The point with the highest load: of the swept load, else where the most requests wait."""
        for key in LOAD_KEYS:
            if key in self.sweep_keys:
                return max(self.points, key=lambda point: _number(point.values[key]))
        return max(self.points, key=self._waiting)

    def _waiting(self, point: Point) -> float:
        rows = self.at(point)
        if "mean_waiting_requests" not in rows or len(self.points) == 1:
            return 0.0
        return float(pd.to_numeric(rows["mean_waiting_requests"], errors="coerce").mean())

    def _find_points(self) -> tuple[list[Point], NDArray[np.int64]]:
        if not self.sweep_keys:
            return [Point(0, {})], np.zeros(len(self.summary), np.int64)
        known: dict[tuple[Any, ...], int] = {}
        tuples = list(self.summary[self.sweep_keys].itertuples(index=False, name=None))
        index = np.array([known.setdefault(values, len(known)) for values in tuples], np.int64)
        points = [Point(number, dict(zip(self.sweep_keys, values, strict=True))) for values, number in known.items()]
        return points, index


def short_key(key: str) -> str:
    """Return the last part of a dotted key: ``rate`` of ``workload.arrivals.rate``."""
    return key.rsplit(".", 1)[-1]


def axis_label(key: str) -> str:
    """Return a swept key as the label of an axis, with its unit where it is known."""
    if key.endswith(".block_size"):
        return "block size (tokens)"
    return SWEEP_LABELS.get(key, key)


def show_value(value: Any) -> str:
    """Return a swept value as people write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def numeric(values: Sequence[Any]) -> list[float] | None:
    """Return swept values as numbers, None if one of them is none."""
    numbers = [_number(value) for value in values]
    return None if any(np.isnan(number) for number in numbers) else numbers


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return np.nan
    return float(value)
