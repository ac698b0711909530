"""What is kept below ``results/`` has what it speaks of."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "results"


def test_the_files_that_a_manifest_names_are_there() -> None:
    folder = RESULTS / "gpu-h200"
    named = json.loads((folder / "manifest.json").read_text())["files"]
    assert [name for name in named if not (folder / name).exists()] == []
    said = (folder / "README.md").read_text()
    assert [name for name in ("swap-ways.csv", "layouts.csv", "staging.csv") if name not in said] == []


def test_the_benchmark_has_a_table_figures_and_a_manifest() -> None:
    folder = RESULTS / "benchmark"
    timings = json.loads((folder / "engine.json").read_text())
    shown = (folder / "engine.txt").read_text().splitlines()
    assert len(shown) == 1 + sum(timing["case"]["fast_forward"] for timing in timings)
    assert json.loads((folder / "manifest.json").read_text())["command"].startswith("python -m tests.benchmark.engine")
