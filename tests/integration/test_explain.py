"""``pagesim explain`` and ``pagesim report`` as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagesim import experiment_file
from pagesim.cli import main
from pagesim.experiment import plan
from pagesim.explain import window
from pagesim.explain.observer import Window
from pagesim.report.memory_view import memory_view
from pagesim.report.rows import Rows
from pagesim.results import Results
from pagesim.runs import Run

EXPERIMENT = """
name: small
model: opt-13b
device: a100-40gb
memory: {kv_cache: 512 MiB, host_kv_cache: 256 MiB}
workload:
  num_requests: 60
  arrivals: {process: poisson, rate: 8.0}
  lengths: {prompt: {distribution: uniform, low: 8, high: 80}, output: {distribution: uniform, low: 8, high: 120}}
scheduler: {max_num_seqs: 16, max_num_batched_tokens: 256, max_model_len: 256}
allocators:
  max: {policy: contiguous}
  swap: {policy: swapping}
  paged: {policy: paged}
"""


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(EXPERIMENT)
    return path


def test_the_small_batch_of_the_manual(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--prompt", "10", "--output", "6", "--block-size", "4"]) == 0
    text = capsys.readouterr().out
    joined = " ".join(text.split())
    assert "contiguous" in text
    assert "request 3 waits: needs 3 blocks, 3" in joined
    assert "kept by the watermark" in joined
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("case", ["fork", "beam", "swap", "prefix"])
def test_cases_can_be_chosen(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--case", case]) == 0
    assert "copy_on_write" in capsys.readouterr().out


def test_it_walks_through_a_user_s_allocator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    capsys.readouterr()
    assert main(["explain", "--allocator", "experiment_allocator.py:Doubling", "--requests", "1"]) == 0
    assert "blocks 3 to 5 become its logical blocks 3 to 5" in capsys.readouterr().out
    assert main(["explain", "--allocator", "experiment_allocator.py:Doublin"]) == 2
    assert "did you mean 'Doubling'?" in capsys.readouterr().err


def test_it_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "walk.html"
    assert main(["explain", "--html", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert path.read_text().startswith("<!doctype html>")
    assert main(["explain", "--html", str(tmp_path / "no" / "walk.html")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert sorted(file.name for file in tmp_path.iterdir()) == ["walk.html"]


def test_a_window_of_an_experiment_shows_the_steps_of_the_run(experiment: Path) -> None:
    spec = next(spec for spec in plan(experiment_file.load(experiment)) if spec.allocator == "swap")
    run = Run(spec)
    seen: list[tuple[int, int, int, int]] = []
    run.engine.on_step = lambda step, result, now: seen.append((now, result.duration, step.num_decodes, len(step.ops)))
    run.engine.run()
    walk = window.walk(spec, Window(100, 140))
    frames = [(frame.start, frame.result.duration, len(frame.decodes), len(frame.ops)) for frame in walk.frames]
    assert frames == seen[100:140]
    first, last = seen[100][0], seen[140][0]
    timed = window.walk(spec, Window(first, last, is_time=True))
    assert [frame.number for frame in timed.frames] == list(range(100, 140))
    assert not walk.is_complete


def test_a_window_and_a_life_on_the_command_line(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "small.yaml", "--out", "r", "--no-report", "-q"]) == 0
    capsys.readouterr()
    assert main(["explain", "small.yaml", "--allocator", "swap", "--window", "50:52"]) == 0
    from_file = capsys.readouterr().out
    assert "step 50, at " in from_file
    assert main(["explain", "r", "--allocator", "swap", "--window", "50:52"]) == 0
    assert capsys.readouterr().out == from_file
    assert main(["explain", "r"]) == 0
    assert "waits" in capsys.readouterr().out, "by default the first steps at which memory has run out"
    assert main(["explain", "r", "--run", "max-seed0", "--request", "20"]) == 0
    text = capsys.readouterr().out
    assert "request 20 under max-seed0" in text
    assert "needs 256 slots" in " ".join(text.split())
    assert "has all of its tokens" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there are no results 'nowhere'"),
        (["smal.yaml"], "there is no experiment file 'smal.yaml'; did you mean 'small.yaml'?"),
        (["small.yaml", "--window", "9"], "--window 9: write START:END"),
        (["small.yaml", "--window", "9:3"], "--window 9:3: ends before it begins"),
        (["small.yaml", "--window", "1000000:1000001"], "--window: paged-seed0 has no step there"),
        (
            ["small.yaml", "--allocator", "pagd"],
            "--allocator pagd: the experiment has no such row; did you mean 'paged'",
        ),
        (["small.yaml", "--run", "max"], "--run max: there is no such run"),
        (["small.yaml", "--request", "60"], "--request 60: the workload has requests 0 to 59"),
        (["--request", "9"], "--request 9: the batch has requests 0 to 4"),
        (["--run", "x"], "--run belongs to an experiment"),
        (["--set", "a=b"], "--set belongs to an experiment"),
        (["--case", "beam", "--allocator", "contiguous", "--prompt", "x"], "--prompt x: write a number of tokens"),
        (["--scheduler", "chunkd"], "unknown scheduler 'chunkd'; did you mean 'chunked'"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    arguments: list[str], message: str, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert "Traceback" not in shown.err


def test_report_writes_the_page_of_a_folder(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "small.yaml", "--out", "r", "--no-report", "-q"]) == 0
    capsys.readouterr()
    assert main(["report", "r"]) == 0
    assert capsys.readouterr().out.strip() == "r/report.html"
    text = Path("r/report.html").read_text()
    assert 'id="memory-view"' in text
    assert main(["report", "nowhere"]) == 2
    assert "there are no results 'nowhere'" in capsys.readouterr().err
    Path("r/runs/max-seed0/memory.parquet").write_bytes(b"half")
    assert main(["report", "r"]) == 0
    assert "the memory view cannot be shown" in Path("r/report.html").read_text()


def test_the_committed_example_tells_why_a_request_waited(capsys: pytest.CaptureFixture[str]) -> None:
    """The life is that of the run whose results are kept: it is simulated again from the folder's experiment."""
    folder = Path(__file__).parents[2] / "results" / "example"
    assert main(["explain", str(folder), "--allocator", "max", "--request", "150"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    request = Results.load(folder).requests("max-seed0").set_index("request").loc[150]
    assert f"prompt of {request['prompt_tokens']} tokens, output of {request['output_tokens']}" in told
    assert f"{request['arrival_s']:.6f} s" in told
    assert f"{request['arrival_s'] + request['queueing_s']:.6f} s" in told
    assert f"{request['arrival_s'] + request['e2e_s']:.6f} s" in told
    assert "the first of them: request 76 waits: needs 2,048 slots, 1,392 free" in told
    assert "is admitted, holds 2,048 slots and runs beside 6 other requests" in told


def test_the_readme_shows_the_instant_that_it_speaks_of() -> None:
    """The picture of the memory view is of the fullest instant of paged; its counts stand beside it."""
    repository = Path(__file__).parents[2]
    results, readme = Results.load(repository / "results" / "example"), (repository / "README.md").read_text("utf-8")
    view = memory_view(results, Rows.of(results))
    assert view is not None
    rows = {row["name"]: row for row in view["rows"]}
    live = rows["paged"]["counts"]["live"]
    at = rows["paged"]["times"][live.index(max(live))]
    frames = {name: max(place for place, time in enumerate(row["times"]) if time <= at) for name, row in rows.items()}
    counts = {name: (row["running"][frames[name]], row["waiting"][frames[name]]) for name, row in rows.items()}
    assert counts["paged"] == (27, 0)
    assert counts["max"] == (7, 50)
    assert "`max` runs 7 of them" in readme
    assert "while 50 wait; `paged` runs 27, and nobody waits" in readme
    for name in ("memory-view", "explain", "quickstart-memory"):
        assert f"(docs/images/{name}.png)" in readme
        picture = repository / "docs" / "images" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 100_000
