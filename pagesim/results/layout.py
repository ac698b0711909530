"""Names inside a results folder, and what its manifest says."""

from __future__ import annotations

from typing import Final, Literal

SCHEMA_VERSION: Final = 1
"""Counts up when a reader of the old form could misread the new one."""

MANIFEST: Final = "manifest.json"
EXPERIMENT: Final = "experiment.yaml"
SUMMARY_PARQUET: Final = "summary.parquet"
SUMMARY_CSV: Final = "summary.csv"
RUNS: Final = "runs"
REQUESTS: Final = "requests.parquet"
TIMELINE: Final = "timeline.parquet"
STEPS: Final = "steps.parquet"
MEMORY: Final = "memory.parquet"
RUN_SUMMARY: Final = "summary.json"
RUN_STATE: Final = "state.json"
PLOTS: Final = "plots"
REPORT: Final = "report.html"
LATEST: Final = "latest"

OWN: Final = frozenset({MANIFEST, EXPERIMENT, SUMMARY_PARQUET, SUMMARY_CSV, RUNS, PLOTS, REPORT})
"""What may stand in a results folder."""

FolderState = Literal["running", "complete", "failed", "interrupted"]
RunState = Literal["planned", "done", "failed"]
