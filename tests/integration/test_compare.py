"""Comparing results folders: ratios with intervals over seeds, the same requests, conditions to fail on."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from pagesim.errors import ConfigError
from pagesim.report import Comparison, compare
from pagesim.report.statistics import ratio_interval
from pagesim.results import Results
from tests import synthetic_results as synthetic

OUTPUT = "throughput_output_tokens_per_s"
ROWS = ("max", "paged", "ideal")


def write(path: Path, **options: Any) -> Path:
    return synthetic.write(path, rows=ROWS, num_requests=120, **options).folder


def shown(comparison: Comparison) -> str:
    stream = StringIO()
    comparison.render(Console(file=stream, width=120))
    return stream.getvalue()


class TestIntervals:
    def test_they_agree_with_scipy(self) -> None:
        random = np.random.default_rng(7)
        base = random.normal(100, 10, 12)
        values = base * random.normal(1.5, 0.1, 12)
        ours = ratio_interval(values, base)

        def ratio(a: Any, b: Any, axis: int = -1) -> Any:
            return np.mean(a, axis=axis) / np.mean(b, axis=axis)

        theirs = stats.bootstrap(
            (values, base), ratio, paired=True, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
        ).confidence_interval
        assert ours is not None
        assert ours.low == pytest.approx(theirs.low, rel=0.005)
        assert ours.high == pytest.approx(theirs.high, rel=0.005)

    def test_they_cover_the_truth_about_as_often_as_they_say(self) -> None:
        random = np.random.default_rng(3)
        covered = 0
        for _ in range(200):
            base = random.normal(100, 10, 20)
            found = ratio_interval(2 * base + random.normal(0, 10, 20), base)
            assert found is not None
            covered += found.low <= 2 <= found.high
        assert 0.88 <= covered / 200 <= 0.99

    def test_a_ratio_that_no_seed_changes_has_an_interval_of_no_width(self) -> None:
        base = np.array([90.0, 100.0, 130.0])
        found = ratio_interval(2 * base, base)
        assert found == pytest.approx((2.0, 2.0))
        assert found is not None
        assert found.excludes_one

    @pytest.mark.parametrize(
        ("values", "base"), [([1.0], [1.0]), ([], []), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [0.0, 0.0])]
    )
    def test_there_is_none_without_two_pairs(self, values: list[float], base: list[float]) -> None:
        assert ratio_interval(np.array(values), np.array(base)) is None

    def test_pairs_are_by_seed_not_by_place(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "r", seeds=(0, 1, 2))
        first = compare([folder]).to_json()
        again = compare([write(tmp_path / "s", seeds=(2, 0, 1))]).to_json()
        for name in ROWS:
            row, other = (data["points"][0]["rows"][name] for data in (first, again))
            assert row["mean"][OUTPUT] == pytest.approx(other["mean"][OUTPUT])
            ratio = row["ratio_to_baseline"][OUTPUT]
            assert ratio["interval_95"][0] <= ratio["ratio"] <= ratio["interval_95"][1]


class TestOneFolder:
    def test_json_has_the_numbers_of_the_summary(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "r", seeds=(0, 1))
        data = json.loads(json.dumps(compare([folder]).to_json(), allow_nan=False))
        summary = Results.load(folder).summary
        means = summary.groupby("allocator")[OUTPUT].mean()
        assert data["baseline"] == "max"
        assert list(data["points"][0]["rows"]) == list(ROWS)
        for name in ROWS:
            row = data["points"][0]["rows"][name]
            assert row["mean"][OUTPUT] == pytest.approx(means[name], rel=1e-12)
            assert row["ratio_to_baseline"][OUTPUT]["ratio"] == pytest.approx(means[name] / means["max"], rel=1e-12)
            assert row["num_seeds"] == 2
        assert data["points"][0]["rows"]["ideal"]["mean"]["external_index"] is None

    def test_one_seed_has_no_interval_and_says_so(self, tmp_path: Path) -> None:
        comparison = compare([write(tmp_path / "r")])
        row = comparison.to_json()["points"][0]["rows"]["paged"]
        assert row["ratio_to_baseline"][OUTPUT]["interval_95"] is None
        assert "one seed: no confidence interval" in shown(comparison)
        assert "interval" not in shown(comparison).replace("no confidence interval", "")

    def test_an_experiment_is_found_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        folder = write(tmp_path / "results" / "synthetic" / "20260101T000000Z-0123abcd")
        (tmp_path / "results" / "synthetic" / "latest").symlink_to(folder.name)
        assert compare(["synthetic"]).results[0].folder == folder.resolve()


class TestSeveralFolders:
    def test_rows_get_the_letter_of_their_folder(self, tmp_path: Path) -> None:
        comparison = compare([write(tmp_path / "a"), write(tmp_path / "b", speed=1.5)])
        assert comparison.rows.names == [f"{letter}/{name}" for letter in "AB" for name in ROWS]
        assert comparison.rows.baseline == "A/max"
        text = shown(comparison)
        assert text.startswith(f"A  synthetic  {tmp_path / 'a'}  (pagesim ")
        assert "to A/max" in text
        data = comparison.to_json()
        faster = data["points"][0]["rows"]["B/max"]["ratio_to_baseline"][OUTPUT]["ratio"]
        assert faster > 1.2

    def test_other_requests_are_refused_unless_forced(self, tmp_path: Path) -> None:
        folders = [write(tmp_path / "a"), write(tmp_path / "b", digest="other")]
        with pytest.raises(ConfigError, match=r"the workloads of B and A differ for seed 0; ratios would mean nothing"):
            compare(folders)
        comparison = compare(folders, force=True)
        assert "Not the same requests: the workloads of B and A differ for seed 0." in shown(comparison)
        assert comparison.to_json()["notes"][0].startswith("Not the same requests")

    def test_other_points_only_are_refused_too(self, tmp_path: Path) -> None:
        folders = [
            write(tmp_path / "a", sweep={synthetic.RATE: [0.5]}),
            write(tmp_path / "b", sweep={synthetic.RATE: [2.0]}),
        ]
        with pytest.raises(ConfigError, match="the folders have no seed and sweep point in common"):
            compare(folders)

    def test_a_key_that_only_one_folder_sweeps_is_taken_from_the_others_experiment(self, tmp_path: Path) -> None:
        swept = write(tmp_path / "a", sweep={synthetic.RATE: [0.5, 1.0]})
        comparison = compare([swept, write(tmp_path / "b")], force=True)
        assert [point.values for point in comparison.rows.points] == [{synthetic.RATE: 0.5}, {synthetic.RATE: 1.0}]
        assert len(comparison.rows.at(comparison.rows.points[1], "B/paged")) == 1

    def test_too_few_and_too_many_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="name at least one results folder"):
            compare([])
        folder = write(tmp_path / "a")
        with pytest.raises(ConfigError, match="27 results folders are too many"):
            compare([folder] * 27)

    def test_no_results_folder_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is no results folder"):
            compare([write(tmp_path / "a"), tmp_path])


class TestFailIf:
    def test_a_condition_that_holds_is_told_with_its_numbers(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "r")
        served = Results.load(folder).summary.set_index("allocator")[OUTPUT].to_dict()
        condition = f"paged.{OUTPUT} < 100 * max.{OUTPUT}"
        assert compare([folder]).violations(condition) == [
            f"{condition}: paged.{OUTPUT} is {served['paged']:.6g} and max.{OUTPUT} is {served['max']:.6g}"
        ]
        assert compare([folder]).violations(f"paged.{OUTPUT} < max.{OUTPUT}") == []

    def test_every_sweep_point_is_looked_at_and_named(self, tmp_path: Path) -> None:
        comparison = compare([write(tmp_path / "r", sweep={synthetic.RATE: [0.1, 2.0]})])
        [told] = comparison.violations(f"max.{OUTPUT} < 0.9 * paged.{OUTPUT}")
        assert told.endswith(" at rate 2")

    def test_a_column_alone_stands_for_every_row_but_the_bound(self, tmp_path: Path) -> None:
        told = compare([write(tmp_path / "r")]).violations("utilization <= 1")
        assert [sentence.split(": ")[1].split(".")[0] for sentence in told] == ["max", "paged"]

    def test_what_cannot_be_told_is_no_success(self, tmp_path: Path) -> None:
        comparison = compare([write(tmp_path / "r", fail="paged-seed0")])
        assert comparison.violations("paged.utilization < 0") == [
            "cannot tell whether paged.utilization < 0: paged.utilization has no value"
        ]
        assert comparison.violations("max.utilization / max.cached < 0") == [
            "cannot tell whether max.utilization / max.cached < 0: it divides by 0"
        ]

    def test_bad_conditions_are_told_with_the_nearest_name(self, tmp_path: Path) -> None:
        comparison = compare([write(tmp_path / "r")])
        with pytest.raises(ConfigError, match="no row 'pagd'; did you mean 'paged'"):
            comparison.violations("pagd.utilization < 1")
        with pytest.raises(ConfigError, match="no column of numbers 'limited_by'"):
            comparison.violations("paged.limited_by == 1")
