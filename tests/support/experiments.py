"""Running experiment files the way a user does, and reading what they leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pagesim.cli import main
from pagesim.results.columns import MEMORY_PARTS

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TIMELINE_PARTS = ["live", "cached", "reserved", "internal", "external", "free"]

SMALL = """\
name: small
model: opt-13b
device: a100-40gb
memory: {kv_cache: 2 GiB, host_kv_cache: 1 GiB}
workload:
  num_requests: 120
  arrivals: {process: gamma, rate: 3.0, cv: 2.0}
  lengths: {dataset: sharegpt}
  estimate: {cv: 0.3}
scheduler: {max_num_seqs: 64, max_num_batched_tokens: 1024, max_model_len: 2048}
allocators:
  max:   {policy: contiguous, reserve: max}
  pow2:  {policy: contiguous, reserve: pow2}
  paged: {policy: paged, block_size: 16}
  swap:  {policy: swapping, block_size: 16, preemption: swap}
seeds: [3, 4]
sweep: {workload.arrivals.rate: [0.5, 3.0]}
"""
"""Memory that runs out: preemptions by recomputation and by swapping, estimates that are outrun, a queue."""


def written(folder: Path, text: str = SMALL) -> Path:
    """Return an experiment file with ``text`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "experiment.yaml"
    path.write_text(text)
    return path


@dataclass(frozen=True)
class Finished:
    """What a run of the command left."""

    folder: Path

    @property
    def summary(self) -> pd.DataFrame:
        """Return one row a run."""
        return pd.read_parquet(self.folder / "summary.parquet")

    def rows(self, **chosen: Any) -> pd.DataFrame:
        """Return the rows of the summary with these values, by allocator."""
        table = self.summary
        for column, value in chosen.items():
            table = table[table[column] == value]
        return table.set_index("allocator")

    def requests(self, run: str) -> pd.DataFrame:
        """Return one row a request."""
        return pd.read_parquet(self.folder / "runs" / run / "requests.parquet")

    def timeline(self, run: str) -> pd.DataFrame:
        """Return one row a bin."""
        return pd.read_parquet(self.folder / "runs" / run / "timeline.parquet")


def run(experiment: Path, out: Path, *sets: str, jobs: int = 1) -> Finished:
    """Run ``pagesim run`` with ``--set`` for each of ``sets``; the command must succeed."""
    arguments = ["run", str(experiment), "--out", str(out), "--quiet", "--no-report", "--jobs", str(jobs)]
    for each in sets:
        arguments += ["--set", each]
    assert main(arguments) == 0
    return Finished(out)


def check_account(finished: Finished) -> None:
    """Hold what is true of every run: the parts of the memory, and the buckets of the requests."""
    summary = finished.summary
    assert len(summary) >= 1
    parts = summary[list(MEMORY_PARTS)]
    assert ((parts >= -1e-12) & (parts <= 1 + 1e-12)).all(axis=None)
    assert (parts.sum(axis=1) - 1).abs().max() < 1e-9
    ended = summary["finished"] + summary["refused"] + summary["unfinished"]
    assert (ended == summary["offered_requests"]).all(), "INV-7: every request ends in one bucket"
    for row in summary.itertuples():
        timeline = finished.timeline(str(row.run))
        parts = timeline[TIMELINE_PARTS]
        assert ((parts >= -1e-12) & (parts <= 1 + 1e-12)).all(axis=None), row.run
        assert (parts.sum(axis=1) - 1).abs().max() < 1e-9, row.run
        requests = finished.requests(str(row.run))
        assert len(requests) == row.offered_requests
        assert (requests["status"] == "finished").sum() == row.finished
        served = requests[requests["status"] == "finished"]
        assert (served["queueing_s"] >= 0).all()
        assert (served["queueing_s"] < served["ttft_s"]).all(), "INV-5: a first token takes a step"
        assert (served["ttft_s"] <= served["e2e_s"]).all(), "INV-5"
