"""The reference backend behind an experiment: blocks are really moved, and tables stay those of the cost model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import pagesim

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize(
    ("name", "memory"),
    [("gpu-quickstart", "256 MiB"), pytest.param("gpu-parallel-sampling", "512 MiB", marks=pytest.mark.slow)],
)
def test_inv_9_a_gpu_experiment_runs_on_the_cpu_and_gives_the_cost_models_tables(
    name: str, memory: str, tmp_path: Path
) -> None:
    small = ["workload.num_requests=12", "workload.arrivals.rate=2000", f"memory.kv_cache={memory}"]
    tables = {}
    for backend in ("cost_model", "reference"):
        found = pagesim.run(
            EXPERIMENTS / f"{name}.yaml", sets=[*small, f"backend={backend}"], out=tmp_path / backend, jobs=1
        )
        tables[backend] = found.summary.drop(columns="backend")
    assert tables["reference"]["finished"].min() > 0
    assert tables["reference"]["preemptions_swap"].max() > 0
    pd.testing.assert_frame_equal(tables["reference"], tables["cost_model"])
