"""Reports from results folders alone: a committed one, one that an early version wrote, and ones that are not whole."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pagesim.report.figures import KINDS, sensible
from pagesim.results import Results, layout

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "results" / "example"
OLD = Path(__file__).parent / "old_results"

ALONE = """
import sys

BLOCKED = {"simpy", "torch", "cupy", "numba", "pagesim_backends"}


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not installed on this machine")


def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise OSError("this machine has no network")


sys.meta_path.insert(0, Blocker())
sys.addaudithook(forbid)
from pagesim.cli import main

sys.argv[0] = "pagesim"
sys.exit(main())
"""
"""The command line on a machine without a network, simpy, torch, a GPU's libraries or a backend."""


def alone(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", ALONE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the committed results, with its report."""
    folder = tmp_path_factory.mktemp("example") / "results"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(layout.PLOTS, layout.REPORT))
    done = alone("report", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{folder / layout.REPORT}\n"
    return folder


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies results and changes their manifest."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "r"
        shutil.copytree(OLD, folder)
        path = folder / layout.MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
        return folder

    return make


def cells_of(page: str) -> dict[tuple[str, str], str]:
    """Return the text of each cell by heading and row; the first table that has a heading counts."""
    found: dict[tuple[str, str], str] = {}
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        heads = [html.unescape(head) for head in re.findall(r"<th scope=\"col\"[^>]*>(.*?)<small>", table, re.DOTALL)]
        heads[0] = heads[0].rpartition(">")[2]
        for line in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]:
            name = re.search(r'<th scope="row">(.*?)</th>', line)
            if name is None:  # the heading of a sweep point
                continue
            texts = [re.sub("<[^>]+>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", line, re.DOTALL)]
            for head, text in zip(heads, texts, strict=True):
                found.setdefault((head, html.unescape(name[1]).removesuffix(" †")), html.unescape(text))
    return found


class TestTheCommittedExample:
    def test_it_is_small_and_says_where_it_comes_from(self) -> None:
        files = [path for path in EXAMPLE.rglob("*") if path.is_file()]
        own = [path for path in files if path.parent.name != layout.PLOTS and path.name != layout.REPORT]
        assert sum(path.stat().st_size for path in own) < 1_400_000
        manifest = json.loads((EXAMPLE / layout.MANIFEST).read_text(encoding="utf-8"))
        assert manifest["schema_version"] == 1
        assert manifest["state"] == "complete"
        assert manifest["command"].startswith("pagesim run experiments/quickstart.yaml")
        assert len(manifest["runs"]) == 15

    def test_table_page_figures_and_summary_have_the_same_numbers(self, example: Path) -> None:
        summary = pd.read_parquet(example / layout.SUMMARY_PARQUET)
        csv = pd.read_csv(example / layout.SUMMARY_CSV)
        numbers = [name for name in summary if pd.api.types.is_numeric_dtype(summary[name])]
        assert len(numbers) > 40
        for name in numbers:
            np.testing.assert_array_equal(csv[name].to_numpy(float), summary[name].to_numpy(float), err_msg=name)

        page = (example / layout.REPORT).read_text(encoding="utf-8")
        cells = cells_of(page)
        means = summary.groupby("allocator", sort=False)[numbers].mean()
        for head, column, factor in (
            ("live", "utilization", 100),
            ("internal", "internal", 100),
            ("external", "external", 100),
            ("batched", "mean_batched_requests", 1),
            ("output", "throughput_output_tokens_per_s", 1),
            ("finished", "throughput_requests_per_s", 1),
            ("of ideal", "share_of_ideal", 100),
            ("TTFT p99", "ttft_p99_s", 1),
            ("TPOT", "tpot_mean_s", 1000),
        ):
            for name, mean in means[column].items():
                shown = cells[head, str(name)].split(" ±")[0].rstrip("*")
                places = len(shown.partition(".")[2])
                assert shown == f"{factor * mean:.{places}f}", (head, name)

        table = alone("compare", example)
        assert table.returncode == 0
        for (head, name), text in cells.items():
            if head not in ("95 %", "limited by"):
                assert " ".join(text.split(" ±")[0].rstrip("*").split()) in table.stdout, (head, name)

        hover = json.loads(re.search(r'id="hover-data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
        bars = {bar["name"]: bar["value"] for panel in hover["memory"] for bar in panel["bars"]}
        for name, row in means.iterrows():
            assert bars[f"{name}: live"] == pytest.approx(100 * row["utilization"], rel=1e-4)
        served = {bar["name"]: bar["value"] for bar in hover["throughput"][0]["bars"]}
        assert served == pytest.approx(means["throughput_output_tokens_per_s"].to_dict(), rel=1e-4)

    def test_its_figures_are_what_they_were(self, example: Path) -> None:
        page = (example / layout.REPORT).read_text(encoding="utf-8")
        verdict = html.unescape(re.search(r'class="verdict">(.*?)</p>', page)[1])  # type: ignore[index]
        assert verdict == (
            "paged serves 2.11x the output tokens/s of max (95 % interval 1.97 to 2.34) and batches 2.53x the "
            "requests; 58 % of the memory of max is held for tokens that never come and 9 % cannot be handed out."
        )
        cells = cells_of(page)
        assert [cells["live", name] for name in ("max", "pow2", "oracle", "paged", "ideal")] == [
            "19.8 ±1.3",
            "27.3 ±1.5",
            "38.7 ±2.2",
            "52.6 ±4.7*",
            "52.4 ±4.7",
        ]
        assert [cells["limited by", name] for name in ("max", "paged")] == ["memory 100 %", "load 100 %"]

    def test_every_figure_is_drawn_without_what_simulates(self, example: Path, tmp_path: Path) -> None:
        wanted = sensible(Results.load(example))
        assert set(KINDS) - set(wanted) == {"blocks", "preemption", "sharing"}
        for kind in wanted:
            for ending, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
                assert (example / layout.PLOTS / f"{kind}.{ending}").read_bytes().startswith(start)
        done = alone("plot", example, "--kind", "utilization", "--out", tmp_path / "u.png")
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'u.png'}\n")

    def test_what_there_is_no_figure_of_is_told(self, example: Path) -> None:
        done = alone("plot", example, "--kind", "sharing")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "a figure of sharing needs blocks that are shared" in done.stderr


class TestOldResults:
    """Written by pagesim at commit dd52a89, before timelines had rates and moves, and before snapshots and steps."""

    def test_they_lack_what_came_later(self) -> None:
        results = Results.load(OLD)
        assert results.manifest["commit"].startswith("dd52a89")
        assert "copied_blocks" not in results.timeline("max-rate1.0-seed0")
        assert not results.has_table("max-rate1.0-seed0", layout.MEMORY)

    def test_their_report_has_the_numbers_that_it_had(self, tmp_path: Path) -> None:
        folder = tmp_path / "old"
        shutil.copytree(OLD, folder)
        done = alone("report", folder)
        assert (done.returncode, done.stderr) == (0, "")
        page = (folder / layout.REPORT).read_text(encoding="utf-8")
        assert html.unescape(re.search(r'class="verdict">(.*?)</p>', page)[1]) == (  # type: ignore[index]
            "At rate 2, paged serves 1.27x the output tokens/s of max (95 % interval 1.17 to 1.37) and batches 1.29x "
            "the requests; 21 % of the memory of max is held for tokens that never come and 47 % cannot be handed out."
        )
        cells = cells_of(page)
        assert (cells["live", "max"], cells["live", "paged"]) == ("12.6 ±0.3", "12.8 ±0.6*")
        assert page.count('<figure id="figure-') == len(sensible(Results.load(OLD))) == 8
        assert 'id="memory-view"' not in page


class TestFoldersThatAreNotWhole:
    def told(self, folder: Path, words: str, *, code: int = 2) -> None:
        done = alone("report", folder)
        assert done.returncode == code
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr
        assert (folder / layout.REPORT).exists() == (code == 0)

    def test_no_results_folder(self, tmp_path: Path) -> None:
        self.told(tmp_path, "is no results folder: it has no manifest.json")

    def test_a_newer_schema(self, broken: Callable[..., Path]) -> None:
        self.told(broken(schema_version=2, pagesim="9.0"), "was written by a newer pagesim (9.0)")

    def test_a_half_finished_run_shows_what_is_done(self, broken: Callable[..., Path]) -> None:
        runs = json.loads((OLD / layout.MANIFEST).read_text(encoding="utf-8"))["runs"]
        for run in runs[8:]:
            run["state"] = "planned"
        folder = broken(state="interrupted", runs=runs)
        summary = pd.read_parquet(folder / layout.SUMMARY_PARQUET)
        summary.iloc[:8].to_parquet(folder / layout.SUMMARY_PARQUET)
        for run in runs[8:]:
            shutil.rmtree(folder / layout.RUNS / run["run"])
        self.told(folder, "old was interrupted: 8 of 12 runs are done", code=0)
        page = (folder / layout.REPORT).read_text(encoding="utf-8")
        assert "8 of 12 runs" in page
        assert cells_of(page)["live", "paged"] == "12.8 ±0.6*"

    def test_a_damaged_table_is_named_and_the_rest_is_shown(self, broken: Callable[..., Path]) -> None:
        folder = broken()
        (folder / "runs/max-rate2.0-seed0/timeline.parquet").write_bytes(b"half a file")
        done = alone("report", folder)
        assert done.returncode == 0
        assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [
            f"the figure {kind} cannot be shown" for kind in ("utilization", "fragmentation", "batch")
        ]
        page = html.unescape((folder / layout.REPORT).read_text(encoding="utf-8"))
        assert "the figure utilization cannot be shown: " in page
        assert "timeline.parquet' is damaged" in page
        assert 'id="figure-memory"' in page
