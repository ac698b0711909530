"""The commands that read, list and begin; and how the command line ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pagesim import experiment_file
from pagesim.cli import main
from pagesim.commands.plot import Figure
from pagesim.errors import BackendError
from pagesim.experiment_file import load
from pagesim.experiment_file.names import check_names
from pagesim.report import figures

KINDS = ["allocators", "schedulers", "victims", "backends", "arrivals", "lengths", "models", "devices", "traces"]


@pytest.mark.parametrize("name", ["experiment", "chat-traffic.v2", "my_experiment.yaml"])
def test_init_writes_an_experiment_that_is_valid(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", name]) == 0
    stem = name.removesuffix(".yaml")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"{stem}.yaml", f"{stem}_allocator.py"])
    assert capsys.readouterr().out == f"wrote {stem}.yaml and {stem}_allocator.py; next: pagesim run {stem}.yaml\n"
    file = load(tmp_path / f"{stem}.yaml")
    check_names(file)
    assert file.config.name == stem
    assert file.config.allocators["mine"].policy == f"{stem}_allocator.py:Doubling"
    assert "starter" not in file.source


def test_the_starter_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    small = ["--set", "workload.num_requests=30", "--no-report"]
    assert main(["run", "experiment.yaml", "--dry-run", *small]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[-1] == "8 runs; nothing was run"
    assert listed[1:3] == ["max-seed0", "max-seed1"]
    assert not (tmp_path / "results").exists()
    assert main(["run", "experiment.yaml", *small]) == 0
    shown = capsys.readouterr()
    folder = Path(shown.out.splitlines()[-1])
    assert (folder / "summary.csv").read_text().count("\n") == 9
    assert "\x1b" not in shown.out + shown.err
    assert [line.split(" ")[0] for line in shown.err.splitlines()] == [f"[{number}/8]" for number in range(1, 9)]
    assert main(["compare", "experiment"]) == 0
    table = capsys.readouterr().out
    assert shown.out.startswith(table), "run prints the same table, then the folder"
    assert main(["compare", "experiment", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["baseline"] == "max"
    assert main(["compare", "experiment", "--fail-if", "paged.utilization < 2"]) == 1
    assert capsys.readouterr().err.startswith("paged.utilization < 2: paged.utilization is 0.")
    assert main(["compare", "experiment", "--fail-if", "paged.utilization > 2"]) == 0
    assert main(["plot", "experiment", "--kind", "utilization", "--out", "u.svg"]) == 0
    assert Path("u.svg").read_text().count("<svg") == 1


def test_a_run_that_fails_is_told_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    broken = Path("experiment_allocator.py")
    source = broken.read_text()
    assert source.count("table = sequence.block_table") == 1
    broken.write_text(source.replace("table = sequence.block_table", "table = sequence.block_tabel"))
    capsys.readouterr()
    arguments = ["run", "experiment.yaml", "--set", "workload.num_requests=20", "--set", "seeds=[0]", "--no-report"]
    assert main([*arguments, "--quiet", "--out", "here"]) == 1
    shown = capsys.readouterr()
    assert "mine-seed0 failed: AttributeError: 'Sequence' object has no attribute 'block_tabel'" in shown.err
    assert "Traceback" not in shown.err
    assert Path("here/summary.csv").read_text().count("\n") == 4
    assert shown.out.splitlines()[-1] == "here"


def test_plot_offers_the_figures_that_there_are() -> None:
    assert [kind.value for kind in Figure] == list(figures.KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_can_be_listed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [line.split()[0] for line in lines]
    assert len(rows) >= 2
    assert all(len(row["summary"]) > 10 for row in rows), rows


def test_validate_shows_the_arithmetic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    capsys.readouterr()
    assert main(["validate", "experiment.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "experiment.yaml is valid: 8 runs."
    (slots,) = [line.split() for line in lines if line.startswith("  slots ")]
    assert slots[1] == "15728"
    assert main(["validate", "experiment.yaml", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["experiment"], document["runs"]) == ("experiment", 8)
    values = {value["name"]: value["value"] for section in document["sections"] for value in section["values"]}
    assert values["slots"] == "15728"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BackendError("there is no GPU here"), 1, "there is no GPU here\n"),
        (OSError(28, "No space left on device", "results/x"), 1, "'results/x': No space left on device\n"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "internal error: ZeroDivisionError: division by zero (--debug shows where)\n",
        ),
    ],
)
def test_how_a_command_ends(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(experiment_file, "load", fail)
    assert main(["run", "e.yaml"]) == code
    assert capsys.readouterr().err.endswith(said)
