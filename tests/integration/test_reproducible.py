"""INV-6: the same experiment gives byte-identical tables, whatever runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.experiments import Finished, check_account, run, written
from tests.support.tables import tables


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("first")
    return run(written(folder), folder / "out")


def test_it_is_worth_comparing(first: Finished) -> None:
    check_account(first)
    summary = first.summary
    assert len(summary) == 5 * 2 * 2
    assert summary["preemptions_recompute"].sum() > 0
    assert summary["preemptions_swap"].sum() > 0
    assert summary["copied_blocks"].sum() > 0
    assert summary["throughput_output_tokens_per_s"].nunique() > 10
    num_memory = len(summary) // 2  # the pool over time is kept for the first seed alone
    assert len(tables(first)) == 2 + 2 * len(summary) + num_memory


def test_the_same_run_twice(first: Finished, tmp_path: Path) -> None:
    assert tables(run(written(tmp_path), tmp_path / "out")) == tables(first)


def test_with_two_workers(first: Finished, tmp_path: Path) -> None:
    assert tables(run(written(tmp_path), tmp_path / "out", jobs=2)) == tables(first)


def test_the_resolved_experiment_gives_the_same(first: Finished, tmp_path: Path) -> None:
    assert tables(run(first.folder / "experiment.yaml", tmp_path / "out")) == tables(first)


def test_one_row_alone_is_as_in_company(first: Finished, tmp_path: Path) -> None:
    alone = run(written(tmp_path), tmp_path / "out", "allocators={paged: {policy: paged, block_size: 16}}")
    names = [name for name in tables(first) if name.startswith("runs/paged-")]
    assert len(names) == 4 + 4 + 2
    for name in names:
        assert tables(alone)[name] == tables(first)[name], name


def test_another_seed_is_another_run(first: Finished, tmp_path: Path) -> None:
    other = run(written(tmp_path), tmp_path / "out", "seeds=[5]", "sweep={workload.arrivals.rate: [3.0]}")
    known = set(first.summary["throughput_output_tokens_per_s"])
    assert known.isdisjoint(other.summary["throughput_output_tokens_per_s"])
