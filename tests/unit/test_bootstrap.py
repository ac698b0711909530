"""scripts/bootstrap.py: what it says when something is missing, and when it has nothing to do."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module that works on a folder of its own."""
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("simpy==4.1.2\n")
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "PYTHON": venv / "bin" / "python",
        "STAMP": venv / "pagesim-setup.json",
        "CONSTRAINTS": tmp_path / "constraints.txt",
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


class FakeRuns:
    """Stands for ``run``: keeps the commands and answers by what they contain."""

    def __init__(self, failures: dict[str, str]) -> None:
        self.failures = failures
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str]) -> tuple[int, str]:
        self.commands.append(command)
        for sign, output in self.failures.items():
            if sign in command or command[0].endswith(sign):
                return 1, output
        return 0, str(list(sys.version_info[:2])) + "\n"


def test_an_old_interpreter_gets_as_far_as_being_told() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_an_old_interpreter_is_named(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(bootstrap.SetupError, match=r"needs Python 3\.11 or newer and this is Python 3\.9\.2"):
        bootstrap.check_python()


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_missing_module_is_named_with_the_cure(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    with pytest.raises(bootstrap.SetupError, match=f"'{missing}' is missing.*apt install python3-venv"):
        bootstrap.check_python()


def test_a_second_run_installs_nothing_until_an_input_changes(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed: list[str] = []
    monkeypatch.setattr(bootstrap, "install", installed.append)
    bootstrap.set_up({"test"})
    bootstrap.set_up({"test"})
    bootstrap.set_up(set())
    assert installed == [".[test]"]
    bootstrap.set_up({"dask"})
    assert installed == [".[test]", ".[dask,test]"]
    (tmp_path / "constraints.txt").write_text("simpy==4.1.1\n")
    bootstrap.set_up(set())
    assert installed == [".[test]", ".[dask,test]", "."]


def test_an_interrupted_run_leaves_no_stamp(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_target: str) -> None:
        raise KeyboardInterrupt

    bootstrap.write_stamp("an older one", {"test"})
    monkeypatch.setattr(bootstrap, "install", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bootstrap.set_up({"test"})
    assert bootstrap.read_stamp(bootstrap.fingerprint()) is None
    assert not bootstrap.STAMP.exists()


def test_pip_takes_over_where_uv_fails(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = FakeRuns({"/bin/uv": "some words\nerror: no such platform\nmore words"})
    monkeypatch.setattr(bootstrap, "run", runs)
    bootstrap.install(".[test]")
    assert runs.commands[-1][1:3] == ["-m", "pip"]
    assert runs.commands[-1][-2:] == ["-e", ".[test]"]
    assert "uv did not do it (error: no such platform)" in capsys.readouterr().err


def test_no_network_is_one_sentence(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = "WARNING: Retrying\nNewConnectionError: Temporary failure in name resolution\nERROR: no match"
    monkeypatch.setattr(bootstrap, "run", FakeRuns({"install": output}))
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--extra", "test"])
    assert bootstrap.main() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("setup: the package index cannot be reached; connect to the network")


def test_the_constraints_name_no_address_and_every_dependency() -> None:
    root = SCRIPT.parents[1]
    constraints = (root / "scripts" / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in constraints
    assert " @ " not in constraints
    pinned = {line.split("==")[0] for line in constraints.splitlines()}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.split(r"[<>=!~\[ ]", requirement)[0].lower() for requirement in declared}
    assert len(names) > 20
    assert names - pinned == set()
