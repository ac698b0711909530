"""The results folder: whole files, one summary in any order of the runs, and what is said of damaged ones."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pagesim.errors import ConfigError
from pagesim.results import SUMMARY_COLUMNS, Results, ResultsWriter
from pagesim.results import folders as folders_module
from pagesim.results.files import table_of_rows, whole, write_csv
from tests import synthetic_results as synthetic

CONFIG = "name: small\nbaseline: b\nallocators: {a: {policy: paged}, b: {policy: paged}}\n"


def create(out: Path | None, runs: Sequence[str], config: str = CONFIG, root: Path = Path("results")) -> ResultsWriter:
    manifest = {"command": "pagesim run small.yaml", "seeds": [0]}
    return ResultsWriter.create("small", config, "0a1b2c3d", out, runs, manifest, root=root)


def row(allocator: str, seed: int = 0, **figures: Any) -> dict[str, Any]:
    return {"allocator": allocator, "policy": "paged", "backend": "cost_model", "seed": seed, **figures}


def requests(finished: Sequence[int], num_requests: int = 4, ttft: float = 1.0) -> dict[str, Any]:
    done = np.isin(np.arange(num_requests), finished)
    nan = np.where(done, 1.0, np.nan)
    return {
        "request": np.arange(num_requests),
        "status": np.where(done, "finished", "refused"),
        "reason": ["" if each else "larger than the pool" for each in done],
        "measured": np.array([0] + [1] * (num_requests - 1)),
        "ttft_s": nan * ttft * np.arange(1, num_requests + 1),
        "tpot_s": nan * 0.1,
        "e2e_s": nan * 9,
        "normalized_latency_s_per_token": nan * 0.5,
    }


TIMELINE = {"t_s": [0.0, 1.0], "width_s": [1.0, 1.0], "live": [0.25, 0.75]}


def fill(writer: ResultsWriter, runs: Sequence[str]) -> None:
    for run in runs:
        allocator, seed = run.split("-seed")
        figures = {"utilization": 0.5, "finished": 4, "limited_by": "memory", "window": "steady"}
        writer.write_run(run, row(allocator, int(seed), **figures), requests(range(4)), TIMELINE)


class TestSummary:
    def test_its_columns_come_in_the_order_of_the_formats(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", rows=("paged",), sweep={synthetic.RATE: [1.0]})
        expected = [*SUMMARY_COLUMNS[:5], synthetic.RATE, *SUMMARY_COLUMNS[5:]]
        assert list(results.summary.columns)[: len(expected)] == expected
        assert list(pd.read_csv(tmp_path / "r" / "summary.csv").columns) == list(results.summary.columns)

    def test_it_is_the_same_bytes_whatever_the_order_of_completion(self, tmp_path: Path) -> None:
        """INV-6."""
        runs = ["a-seed0", "a-seed1", "b-seed0", "b-seed1"]
        for folder, order in (("one", runs), ("two", runs[::-1])):
            writer = create(tmp_path / folder, runs)
            fill(writer, order)
            writer.finish()
        for file in (
            "summary.csv",
            "summary.parquet",
            "runs/a-seed1/requests.parquet",
            "runs/b-seed0/timeline.parquet",
        ):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        assert Results.load(tmp_path / "two").summary["run"].tolist() == runs

    def test_nothing_but_the_manifest_knows_the_time(self, tmp_path: Path) -> None:
        for folder in ("one", "two"):
            writer = create(tmp_path / folder, ["a-seed0"])
            fill(writer, ["a-seed0"])
            wall = {"wall_s": 1.5 if folder == "one" else 2.5}
            writer.write_run("a-seed0", row("a"), requests([0]), TIMELINE, info=wall)
            writer.finish()
            assert json.loads((tmp_path / folder / "manifest.json").read_text())["runs"][0]["wall_s"] == wall["wall_s"]
        summary = pq.read_table(tmp_path / "one" / "summary.parquet")
        assert not [name for name in summary.column_names if "wall" in name]
        assert summary.schema.metadata is None
        assert (tmp_path / "one/summary.parquet").read_bytes() == (tmp_path / "two/summary.parquet").read_bytes()

    def test_csv_keeps_every_digit_and_leaves_missing_figures_empty(self, tmp_path: Path) -> None:
        rows: list[dict[str, Any]] = [
            {"x": 0.1 + 0.2, "n": 3, "t": 'a, "b"', "ok": True},
            {"x": float("nan"), "n": None, "t": None, "ok": False},
        ]
        table = table_of_rows(rows, ["x", "n", "t", "ok"], {"x": float, "n": int})
        write_csv(tmp_path / "t.csv", table)
        assert (tmp_path / "t.csv").read_text() == 'x,n,t,ok\n0.30000000000000004,3,"a, ""b""",true\n,,,false\n'

    def test_a_swept_value_keeps_its_type(self) -> None:
        rows: list[dict[str, Any]] = [{"k": 1, "m": 1, "s": "12 GiB"}, {"k": 2.5, "m": {"a": 1}, "s": "8 GiB"}]
        table = table_of_rows(rows, ["k", "m", "s"], {})
        assert table.to_pylist() == [
            {"k": 1.0, "m": "1", "s": "12 GiB"},
            {"k": 2.5, "m": '{"a": 1}', "s": "8 GiB"},
        ]

    def test_a_figure_of_the_wrong_type_is_a_bug(self) -> None:
        with pytest.raises(ValueError, match=r"column 'finished' takes int, not 2\.5"):
            table_of_rows([{"finished": 2.5}], ["finished"], {"finished": int})

    def test_an_experiment_whose_every_run_failed_has_an_empty_summary(self, tmp_path: Path) -> None:
        writer = create(tmp_path / "r", ["a-seed0"])
        writer.fail_run("a-seed0", "no luck")
        results = writer.finish()
        assert list(results.summary.columns) == list(SUMMARY_COLUMNS)
        assert len(Results.load(tmp_path / "r").summary) == 0
        assert len(results.requests()) == 0


class TestDerivedFigures:
    def test_share_of_ideal_is_over_the_same_point_and_seed(self, tmp_path: Path) -> None:
        writer = create(tmp_path / "r", ["a-seed0", "a-seed1", "ideal-seed0", "ideal-seed1"])
        for run, rate in (("a-seed0", 30.0), ("a-seed1", 50.0), ("ideal-seed0", 40.0), ("ideal-seed1", 100.0)):
            allocator, seed = run.split("-seed")
            figures = row(allocator, int(seed), throughput_output_tokens_per_s=rate)
            figures["policy"] = "ideal" if allocator == "ideal" else "paged"
            writer.write_run(run, figures, requests(range(4)), TIMELINE)
        assert writer.finish().summary["share_of_ideal"].tolist() == [0.75, 0.5, 1.0, 1.0]

    def test_without_the_bound_there_is_no_share_of_it(self, tmp_path: Path) -> None:
        writer = create(tmp_path / "r", ["a-seed0"])
        fill(writer, ["a-seed0"])
        assert writer.finish().summary["share_of_ideal"].isna().all()

    def test_rows_that_finished_different_requests_get_figures_over_the_common_ones(self, tmp_path: Path) -> None:
        writer = create(tmp_path / "r", ["a-seed0", "b-seed0"])
        for allocator, finished, ttft in (("a", [0, 1, 2, 3], 1.0), ("b", [0, 1, 3], 2.0)):
            figures = row(allocator, finished=len(finished), refused=4 - len(finished), unfinished=0, window="steady")
            writer.write_run(f"{allocator}-seed0", figures, requests(finished, ttft=ttft), TIMELINE)
        summary = writer.finish().summary
        # request 0 arrived before the window, request 2 was refused by b: 1 and 3 are left
        assert summary["common_requests"].tolist() == [2, 2]
        assert summary["common_ttft_mean_s"].tolist() == [3.0, 6.0]
        assert summary["common_ttft_p50_s"].tolist() == [3.0, 6.0]

    def test_rows_that_finished_the_same_requests_get_none(self, tmp_path: Path) -> None:
        writer = create(tmp_path / "r", ["a-seed0", "b-seed0"])
        for allocator in "ab":
            figures = row(allocator, finished=3, refused=1, unfinished=0, window="steady")
            writer.write_run(f"{allocator}-seed0", figures, requests([0, 1, 3]), TIMELINE)
        assert "common_requests" not in writer.finish().summary


class TestWriter:
    def test_a_folder_is_named_by_time_and_hash_and_latest_points_to_it(self, tmp_path: Path) -> None:
        folders = []
        for _ in range(2):
            writer = create(None, ["a-seed0"], root=tmp_path / "results")
            fill(writer, ["a-seed0"])
            folders.append(writer.finish().folder)
        assert len(set(folders)) == 2
        assert all(folder.parent == tmp_path / "results" / "small" for folder in folders)
        assert all("Z-0a1b2c3d" in folder.name for folder in folders)
        latest = tmp_path / "results" / "small" / "latest"
        assert latest.is_symlink()
        assert os.readlink(latest) == folders[1].name
        assert Results.load("small", root=tmp_path / "results").folder == folders[1].resolve()

    def test_latest_is_a_text_file_where_links_are_not_possible(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise OSError("no links here")

        monkeypatch.setattr(Path, "symlink_to", refuse)
        writer = create(None, ["a-seed0"], root=tmp_path)
        fill(writer, ["a-seed0"])
        folder = writer.finish().folder
        assert (tmp_path / "small" / "latest").read_text() == folder.name + "\n"
        assert Results.load("small", root=tmp_path).folder == folder
        assert Results.load(tmp_path / "small" / "latest").folder == folder

    def test_a_given_folder_is_used_as_it_is_without_latest(self, tmp_path: Path) -> None:
        writer = create(tmp_path / "deep" / "out", ["a-seed0"])
        fill(writer, ["a-seed0"])
        assert writer.finish().folder == tmp_path / "deep" / "out"
        assert not (tmp_path / "deep" / "latest").exists()

    def test_earlier_results_in_a_given_folder_are_replaced(self, tmp_path: Path) -> None:
        synthetic.write(tmp_path / "r")
        writer = create(tmp_path / "r", ["a-seed0"])
        fill(writer, ["a-seed0"])
        writer.finish()
        assert sorted(path.name for path in (tmp_path / "r" / "runs").iterdir()) == ["a-seed0"]
        assert Results.load(tmp_path / "r").name == "small"

    @pytest.mark.parametrize("stranger", ["notes.txt", "experiment.yaml"])
    def test_a_folder_with_other_files_is_refused_and_left_alone(self, tmp_path: Path, stranger: str) -> None:
        (tmp_path / stranger).write_text("mine")
        with pytest.raises(ConfigError, match=rf"holds files that are no results \({stranger}\)"):
            create(tmp_path, ["a-seed0"])
        assert [path.name for path in tmp_path.iterdir()] == [stranger]

    def test_a_folder_with_results_and_other_files_is_refused(self, tmp_path: Path) -> None:
        synthetic.write(tmp_path / "r")
        (tmp_path / "r" / "notes.txt").write_text("mine")
        with pytest.raises(ConfigError, match=r"holds files that are no results \(notes.txt\)"):
            create(tmp_path / "r", ["a-seed0"])
        assert Results.load(tmp_path / "r").name == "synthetic"

    def test_a_folder_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="is a file; results need a folder"):
            create(tmp_path / "file", ["a-seed0"])
        with pytest.raises(ConfigError, match=r"cannot write results to .*Not a directory"):
            create(tmp_path / "file" / "below", ["a-seed0"])
        with pytest.raises(ConfigError, match="cannot make a results folder"):
            create(None, ["a-seed0"], root=tmp_path / "file")

    @pytest.mark.parametrize("runs", [["../up"], [".hidden"], ["a/b"], [""], ["a", "A"], ["a", "a"]])
    def test_names_of_runs_cannot_leave_the_folder_or_clash(self, tmp_path: Path, runs: list[str]) -> None:
        with pytest.raises(ValueError, match=r"cannot name the folder|have the same name"):
            create(tmp_path / "r", runs)
        assert not (tmp_path / "r").exists()

    def test_a_run_that_was_not_planned_is_a_bug(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="was not planned"):
            create(tmp_path / "r", ["a-seed0"]).write_run("b-seed0", {}, {}, {})

    def test_columns_of_unequal_length_are_a_bug(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="unequal length"):
            create(tmp_path / "r", ["a-seed0"]).write_run("a-seed0", row("a"), {"x": [1], "y": [1, 2]}, {})

    def test_a_copy_of_the_writer_writes_in_another_process(self, tmp_path: Path) -> None:
        writer = create(tmp_path / "r", ["a-seed0", "b-seed0"])
        fill(pickle.loads(pickle.dumps(writer)), ["b-seed0"])
        assert writer.runs_to_do == ["a-seed0"]
        fill(writer, ["a-seed0"])
        assert writer.finish().runs == ["a-seed0", "b-seed0"]

    def test_the_manifest_says_who_made_it(self, tmp_path: Path) -> None:
        writer = create(tmp_path / "r", ["a-seed0", "b-seed0"])
        fill(writer, ["a-seed0"])
        writer.fail_run("b-seed0", "the policy raised KeyError")
        manifest = writer.finish().manifest
        assert manifest == json.loads((tmp_path / "r" / "manifest.json").read_text())
        assert manifest["schema_version"] == 1
        assert manifest["command"] == "pagesim run small.yaml"
        assert manifest["state"] == "failed"
        assert manifest["packages"]["numpy"] == np.__version__
        assert manifest["started"] <= manifest["ended"]
        assert manifest["runs"] == [
            {"run": "a-seed0", "state": "done"},
            {"run": "b-seed0", "state": "failed", "message": "the policy raised KeyError"},
        ]

    def test_a_file_is_whole_or_not_there(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("old")

        def half() -> None:
            with whole(target) as temporary:
                temporary.write_text("ne")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            half()
        assert target.read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestInterruption:
    def test_finished_runs_are_kept_and_the_manifest_says_interrupted(self, tmp_path: Path) -> None:
        runs = ["a-seed0", "b-seed0"]
        with pytest.raises(KeyboardInterrupt), create(tmp_path / "r", runs) as writer:  # noqa: PT012
            fill(writer, ["a-seed0"])
            raise KeyboardInterrupt
        results = Results.load(tmp_path / "r")
        assert results.manifest["state"] == "interrupted"
        assert results.summary["run"].tolist() == ["a-seed0"]
        assert results.problems == ["small was interrupted: 1 of 2 runs are done"]

    def test_nothing_is_left_where_nothing_was_done(self, tmp_path: Path) -> None:
        for out in (tmp_path / "r", None):
            with pytest.raises(ConfigError), create(out, ["a-seed0"], root=tmp_path / "results"):
                raise ConfigError("the trace is missing")
        assert list(tmp_path.iterdir()) == []

    def test_leaving_the_block_finishes(self, tmp_path: Path) -> None:
        with create(tmp_path / "r", ["a-seed0"]) as writer:
            fill(writer, ["a-seed0"])
        assert Results.load(tmp_path / "r").manifest["state"] == "complete"

    def test_a_killed_experiment_shows_what_is_done_and_can_be_continued(self, tmp_path: Path) -> None:
        runs = ["a-seed0", "b-seed0"]
        fill(create(tmp_path / "r", runs), ["b-seed0"])
        (tmp_path / "r" / "runs" / ".x.1.part").write_text("half")
        killed = Results.load(tmp_path / "r")
        assert killed.problems == ["small is still being written, or was killed: 1 of 2 runs are done"]
        assert killed.summary["run"].tolist() == ["b-seed0"]
        assert killed.timeline("b-seed0")["live"].tolist() == [0.25, 0.75]

        writer = ResultsWriter.reopen(tmp_path / "r")
        assert writer.runs_to_do == ["a-seed0"]
        fill(writer, ["a-seed0"])
        assert writer.finish().summary["run"].tolist() == runs
        assert not list(tmp_path.rglob("*.part"))
        assert Results.load(tmp_path / "r").problems == []


class TestReader:
    def test_requests_and_timelines_say_which_run_they_are_of(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", sweep={synthetic.RATE: [0.5, 1.0]}, seeds=(0, 1), num_requests=50)
        everything = results.requests()
        assert len(everything) == 5 * 2 * 2 * 50
        assert list(everything.columns)[:4] == ["run", "allocator", "seed", synthetic.RATE]
        one = results.requests("paged-rate0.5-seed1")
        assert one["allocator"].unique().tolist() == ["paged"]
        assert one[synthetic.RATE].unique().tolist() == [0.5]
        pd.testing.assert_frame_equal(
            everything[everything["run"] == "paged-rate0.5-seed1"].reset_index(drop=True), one, check_dtype=False
        )
        assert len(results.timeline("max-rate1.0-seed0")) == synthetic.NUM_BINS

    def test_the_experiment_is_there_as_data(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", sweep={synthetic.RATE: [0.5]}, num_requests=20)
        assert results.config["sweep"] == {synthetic.RATE: [0.5]}
        assert results.sweep_keys == [synthetic.RATE]
        assert results.baseline == "max"
        assert Results.load(create(tmp_path / "s", ["a-seed0"]).folder).baseline == "b"

    def test_digests_are_those_of_the_runs(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", rows=("max",), seeds=(0, 1), num_requests=20)
        assert results.digests == {"max-seed0": "d{}0", "max-seed1": "d{}1"}

    def test_a_failed_run_is_told_and_the_others_are_shown(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", fail="pow2-seed0", num_requests=20)
        assert results.problems == ["run pow2-seed0 failed: the policy raised ZeroDivisionError (mine.py:7)"]
        assert "pow2" not in set(results.requests()["allocator"])
        with pytest.raises(ConfigError, match="run 'pow2-seed0' of synthetic is not done"):
            results.requests("pow2-seed0")
        with pytest.raises(ConfigError, match="has no run 'paged-sed0'; did you mean 'paged-seed0'"):
            results.timeline("paged-sed0")

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: (f / "manifest.json").unlink(), "is no results folder: it has no manifest.json"),
            (lambda f: (f / "manifest.json").write_text("{"), "is damaged: it is no JSON"),
            (lambda f: (f / "manifest.json").write_text("[" * 100_000), "is damaged: it is no JSON"),
            (lambda f: (f / "manifest.json").write_text("[]"), "names no schema_version"),
            (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe"), "is damaged: it is no JSON"),
            (lambda f: newer(f), r"was written by a newer pagesim \(9.9.9\): its schema version is 2, this one reads"),
            (lambda f: shutil.rmtree(f), "there are no results"),
        ],
    )
    def test_what_is_no_results_folder_is_told_in_a_sentence(
        self, tmp_path: Path, damage: Callable[[Path], Any], message: str
    ) -> None:
        folder = synthetic.write(tmp_path / "r", rows=("max",), num_requests=20).folder
        damage(folder)
        with pytest.raises(ConfigError, match=message) as caught:
            Results.load(folder)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all" * 100])
    def test_damaged_tables_are_told_in_a_sentence(self, tmp_path: Path, content: bytes) -> None:
        folder = synthetic.write(tmp_path / "r", rows=("max",), num_requests=20).folder
        (folder / "runs/max-seed0/requests.parquet").write_bytes(content)
        results = Results.load(folder)
        assert len(results.summary) == 1
        with pytest.raises(ConfigError, match=r"requests.parquet' is damaged: ") as caught:
            results.requests()
        assert "\n" not in str(caught.value)
        (folder / "summary.parquet").unlink()
        with pytest.raises(ConfigError, match=r"summary.parquet' is missing"):
            Results.load(folder).summary  # noqa: B018

    def test_a_truncated_table_is_told_in_a_sentence(self, tmp_path: Path) -> None:
        folder = synthetic.write(tmp_path / "r", rows=("max",), num_requests=200).folder
        path = folder / "runs/max-seed0/timeline.parquet"
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ConfigError, match=r"timeline.parquet' is damaged: "):
            Results.load(folder).timeline("max-seed0")

    def test_names_that_are_wrong_get_the_nearest(self, tmp_path: Path) -> None:
        (tmp_path / "results" / "quickstart").mkdir(parents=True)
        with pytest.raises(ConfigError, match="there are no results 'quikstart'; did you mean 'quickstart'"):
            Results.load("quikstart", root=tmp_path / "results")
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="is a file; name a results folder"):
            Results.load(tmp_path / "file")

    def test_results_are_read_without_what_simulates(self) -> None:
        program = "import sys, pagesim.results, pagesim.report; print(*sys.modules)"
        loaded = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=_environment()
        ).stdout.split()
        heavy = {"simpy", "torch", "matplotlib", "seaborn", "jinja2", "pagesim.engine", "pagesim.experiment"}
        assert not heavy & set(loaded)


def newer(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 2, "pagesim": "9.9.9"}))


def _environment() -> dict[str, str]:
    root = Path(folders_module.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "backends")])}
