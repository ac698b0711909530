"""Requests flow through a run: neither their number nor the size of the chunks they come in shows anywhere."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pagesim
from pagesim import experiment_file, rows, runs, steplog
from pagesim.config import TraceConfig
from pagesim.experiment import execute_all, plan
from pagesim.results import ResultsWriter, files
from pagesim.workload import access, data
from pagesim.workload.traces import read_trace
from tests.support.experiments import check_account, run, written
from tests.support.tables import tables

MANY = """\
name: many
model: opt-13b
device: a100-40gb
memory: {kv_cache: 2 GiB}
workload:
  num_requests: 40000
  arrivals: {process: poisson, rate: 100.0}
  lengths:
    prompt: {distribution: gamma, mean: 20, cv: 1}
    output: {distribution: gamma, mean: 3, cv: 1, high: 200}
  estimate: {cv: 0.3}
allocators:
  paged: {policy: paged, block_size: 16}
ideal: false
"""


def test_requests_come_in_row_groups(tmp_path: Path) -> None:
    finished = run(written(tmp_path, MANY), tmp_path / "out")
    check_account(finished)
    file = pq.ParquetFile(finished.folder / "runs" / "paged-seed0" / "requests.parquet")
    assert [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)] == [16384, 16384, 7232]
    requests = finished.requests("paged-seed0")
    assert requests["request"].tolist() == list(range(40000))
    served = requests[requests["measured"] == 1]
    row = finished.summary.iloc[0]
    assert row["ttft_p99_s"] == np.percentile(served["ttft_s"], 99)
    assert row["tpot_p50_s"] == np.percentile(served["tpot_s"].dropna(), 50)
    assert row["e2e_mean_s"] == pytest.approx(served["e2e_s"].mean(), rel=1e-14)
    some = pagesim.load(finished.folder).requests("paged-seed0", names=("ttft_s",))
    assert list(some.columns) == ["run", "allocator", "seed", "ttft_s"]
    assert some["ttft_s"].equals(requests["ttft_s"])


def test_steps_come_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steplog, "ROW_GROUP", 1000)
    finished = run(written(tmp_path, MANY), tmp_path / "out", "measure.steps=true", "workload.num_requests=3000")
    file = pq.ParquetFile(finished.folder / "runs" / "paged-seed0" / "steps.parquet")
    assert file.metadata.num_rows == finished.summary.iloc[0]["iterations"] > 1000
    assert file.metadata.row_group(0).num_rows == 1000
    assert np.all(np.diff(pagesim.load(finished.folder).steps()["start_s"]) > 0)


def test_the_size_of_chunks_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("seeds=[3]", "sweep={}", "measure.steps=true")
    whole = run(written(tmp_path), tmp_path / "whole", *sets)
    monkeypatch.setattr(rows, "CHUNK", 50)
    monkeypatch.setattr(access, "SIZE", 11)
    cut = run(written(tmp_path), tmp_path / "cut", *sets)
    assert len(tables(whole)) == 2 + 4 * 5
    assert tables(cut) == tables(whole)
    assert pagesim.load(cut.folder).digests == pagesim.load(whole.folder).digests
    left = list(cut.folder.rglob(".*"))
    assert not left, "temporary files have no name, or have gone"


@pytest.mark.parametrize("arrivals", ["{process: poisson, rate: 100.0}", "{process: closed_loop, num_clients: 20}"])
def test_memory_does_not_grow_with_the_requests(arrivals: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """15,000 requests more: their rows alone would be 1.7 MB. What is allowed is garbage that waits for its cycle."""
    monkeypatch.setattr(rows, "CHUNK", 1 << 8)
    monkeypatch.setattr(runs, "ROW_GROUP", 1 << 8)
    monkeypatch.setattr(data, "CHUNK", 1 << 8)
    monkeypatch.setattr(access, "SIZE", 1 << 8)
    peak = {}
    for number in (1000, 5000, 20000):  # the first loads and caches whatever there is
        sets = [
            f"workload.num_requests={number}",
            f"workload.arrivals={arrivals}",
            "measure={memory_view: false, timeline_bins: 20}",
        ]
        file = experiment_file.load(written(tmp_path, MANY), sets)
        writer = ResultsWriter.create(
            "many", "name: many\n", "0" * 8, tmp_path / f"out{number}", [spec.name for spec in plan(file)], {}
        )
        gc.collect()
        gc.freeze()  # or garbage would wait until there is a quarter of what the tests have loaded
        tracemalloc.start()
        [outcome] = execute_all(plan(file), writer, jobs=1)
        peak[number] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        gc.unfreeze()
        assert not outcome.failure
        assert outcome.summary["finished"] == number
    assert peak[20000] - peak[5000] < 600_000, peak


def test_a_trace_is_read_once_and_not_kept(tmp_path: Path) -> None:
    def peak_of(number: int) -> int:
        lines = (f"{index / 10},{index % 100 + 1},{index % 7 + 1}\n" for index in range(number))
        (tmp_path / f"{number}.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(lines))
        config = TraceConfig.model_validate({"path": f"{number}.csv", "format": "vidur"})
        tracemalloc.start()
        found = read_trace(config, tmp_path)
        assert sum(len(found.arrivals_of(first, first + 100)) for first in range(0, number, 100)) == number
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_of(20_000)
    assert peak_of(60_000) < peak_of(20_000) + 300_000


def test_a_table_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """A file is whole or absent: what is being written has another name until it is done."""

    def parts() -> Iterator[Any]:
        yield files.table_of_arrays({"a": [1, 2]})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_row_groups(tmp_path / "t.parquet", parts())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_fails_the_run_whose_tables_it_does_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ResultsWriter.write_run

    def refuse(writer: ResultsWriter, run: str, *given: Any, **options: Any) -> None:
        if run.startswith("paged"):
            raise OSError(28, "No space left on device")
        write(writer, run, *given, **options)

    monkeypatch.setattr(ResultsWriter, "write_run", refuse)
    text = MANY.replace("40000", "40").replace("allocators:\n", "allocators:\n  max: {policy: contiguous}\n")
    results = pagesim.run(written(tmp_path, text), out=tmp_path / "out")
    states = {run["run"]: run for run in results.manifest["runs"]}
    assert states["max-seed0"]["state"] == "done"
    failed = states["paged-seed0"]
    assert failed["state"] == "failed"
    assert failed["message"] == f"its tables cannot be written to {str(tmp_path / 'out')!r}: No space left on device"


def test_a_worker_whose_experiment_has_been_killed_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = experiment_file.load(written(tmp_path, MANY.replace("40000", "40")))
    specs = plan(file)
    text = experiment_file.dump(file.config)
    writer = ResultsWriter.create("many", text, "0", tmp_path / "out", [spec.name for spec in specs], {})
    seen = [writer.is_orphaned]
    monkeypatch.setattr("os.getppid", lambda: 1)
    monkeypatch.setattr("os.getpid", lambda: 2)
    seen.append(writer.is_orphaned)
    assert seen == [False, True]
    with pytest.raises(SystemExit):
        list(execute_all(specs, writer, jobs=1))
    assert not (tmp_path / "out" / "runs").exists()
