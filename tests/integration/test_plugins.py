"""Policies of one's own in every place where an experiment takes one, and what is said when one is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from pagesim.cli import main
from pagesim.testing import ContractError
from tests.support.experiments import EXPERIMENTS

MINE = '''\
"""One policy of each kind."""

import numpy as np

from pagesim.allocators.paged import Paged
from pagesim.backend import StepResult
from pagesim.schedulers.mixed import Mixed


class Alloc(Paged):
    """Pages of my own."""


class Order(Mixed):
    """An order of my own."""


class Oldest:
    """The victim that has waited longest."""

    def choose(self, candidates):
        return candidates[0]


class Steady:
    """Every step takes as long."""

    def __init__(self, machine, ticks=10**9):
        self.ticks = ticks

    def execute(self, step):
        return StepResult(self.ticks)


class Regular:
    """Equal gaps."""

    def __init__(self, gap):
        self.gap = gap

    def sample(self, count, rng):
        return np.arange(count) * self.gap


class Equal:
    """Equal lengths."""

    def __init__(self, value):
        self.value = value

    def sample(self, count, rng):
        return np.full(count, self.value)
'''

EXPERIMENT = """\
name: mine
model: opt-13b
device: a100-40gb
memory: {{kv_cache: 2 GiB}}
backend: {{name: "{backend}", ticks: 1000000}}
workload:
  num_requests: 12
  arrivals: {{process: "{arrivals}", options: {{gap: 2500000}}}}
  lengths:
    prompt: {{distribution: "{lengths}", options: {{value: 60}}}}
    output: {{distribution: constant, value: 30}}
scheduler: {{policy: "{scheduler}", victim: "{victim}", max_num_batched_tokens: 2048, max_model_len: 2048}}
allocators:
  mine: {{policy: "{allocator}", block_size: 16}}
ideal: false
measure: {{window: all}}
"""

CLASSES = {
    "allocator": "Alloc",
    "scheduler": "Order",
    "victim": "Oldest",
    "backend": "Steady",
    "arrivals": "Regular",
    "lengths": "Equal",
}
LISTS = {"allocator": "allocators", "scheduler": "schedulers", "victim": "victims", "backend": "backends"}


def named(form: str) -> dict[str, str]:
    """Return kind -> how an experiment names the policy."""
    return {kind: form.format(name) for kind, name in CLASSES.items()}


def written(folder: Path, names: dict[str, str], mine: str = MINE) -> Path:
    """Write the experiment, and beside it the file with the policies."""
    (folder / "mine.py").write_text(mine, encoding="utf-8")
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT.format(**names), encoding="utf-8")
    return path


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that declares an entry point of each kind."""
    (folder / "my_policies.py").write_text(MINE, encoding="utf-8")
    info = folder / "my_policies-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-policies\nVersion: 1.0\n", encoding="utf-8")
    groups = {kind: LISTS.get(kind, kind) for kind in CLASSES}
    points = [f"[pagesim.{groups[kind]}]\nmy_{kind} = my_policies:{name}\n" for kind, name in CLASSES.items()]
    (info / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)


def ran(experiment: Path) -> pd.Series:
    """Run an experiment and return its only row."""
    out = experiment.parent / "out"
    assert main(["run", str(experiment), "--out", str(out), "--quiet", "--no-report"]) == 0
    summary = pd.read_parquet(out / "summary.parquet")
    assert len(summary) == 1
    return summary.iloc[0]


@pytest.mark.parametrize("form", ["mine:{}", "mine.py:{}", "./mine.py:{}", "entry point"])
def test_every_kind_of_policy_can_be_ones_own(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "entry point":
        site = tmp_path / "site"
        site.mkdir()
        installed(site, monkeypatch)
        names = {kind: f"my_{kind}" for kind in CLASSES}
    else:
        names = named(form)
    row = ran(written(tmp_path, names))
    assert (row.finished, row.policy, row.backend) == (12, names["allocator"], names["backend"])
    # a request every 2.5 steps, each of one prefill and 29 decodes: the last arrives at 27.5 steps and ends at 58
    assert row.simulated_s == pytest.approx(58e-6)
    assert row.throughput_output_tokens_per_s == pytest.approx(12 * 30 / 58e-6)


def test_a_list_says_where_each_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(tmp_path, monkeypatch)
    for kind in CLASSES:
        assert main(["list", LISTS.get(kind, kind)]) == 0
        lines = capsys.readouterr().out.splitlines()
        (mine,) = [line for line in lines if line.startswith(f"my_{kind} ")]
        assert re.split(r"\s{2,}", mine)[1] == "my-policies"
        assert mine.rstrip().endswith(".")
        origins = {re.split(r"\s{2,}", line)[1] for line in lines} - {"my-policies"}
        assert origins <= {"pagesim", "dataset", "distribution"}


WRONG = [
    ("allocator", "    def allocate(self, sequence): ...", "allocate(self, sequence, num_tokens)"),
    ("scheduler", "    def schedule(self): ...", "schedule(self, now)"),
    ("victim", "    def choose(self): ...", "choose(self, candidates)"),
    ("backend", "    def execute(self): ...", "execute(self, step)"),
    ("arrivals", "    def sample(self, count): ...", "sample(self, count, rng)"),
    ("lengths", "    def sample(self, count): ...", "sample(self, count, rng)"),
]


def broken(kind: str, body: str) -> str:
    """Return the file with something added at the end of one class, where it overrides what comes before."""
    classes = re.split(r"(?=^class )", MINE, flags=re.MULTILINE)
    return "".join(
        each.rstrip() + f"\n\n{body}\n\n\n" if each.startswith(f"class {CLASSES[kind]}") else each for each in classes
    )


def refusal(experiment: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one sentence with which a run is refused before anything is written."""
    before = sorted(path.name for path in experiment.parent.iterdir())
    assert main(["run", str(experiment), "--out", str(experiment.parent / "out"), "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, *marked = said.err.splitlines()
    assert len(marked) <= 2, "the line of the file, and where in it"
    assert "Traceback" not in said.err
    assert sorted(path.name for path in experiment.parent.iterdir()) == before
    return first


@pytest.mark.parametrize(("kind", "body", "expected"), WRONG, ids=[each[0] for each in WRONG])
def test_a_method_with_the_wrong_arguments_is_named(
    kind: str, body: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(written(tmp_path, named("mine:{}"), broken(kind, body)), capsys)
    signature = body.strip().removeprefix("def ").removesuffix(": ...")
    name = CLASSES[kind]
    assert said.endswith(f"{kind} 'mine:{name}': {name}.{signature} has the wrong arguments; expected: {expected}")


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_that_raises_while_it_is_built_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = "    def __init__(self, *given, **options):\n        raise ValueError('not today')"
    said = refusal(written(tmp_path, named("mine:{}"), broken(kind, body)), capsys)
    assert re.search(rf"{CLASSES[kind]} cannot be built: ValueError: not today \(mine\.py, line \d+\)$", said)


@pytest.mark.parametrize("kind", CLASSES)
def test_what_is_not_there_is_named_with_what_is_near(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = CLASSES[kind][:-1]
    said = refusal(written(tmp_path, {**named("mine:{}"), kind: f"mine:{wrong}"}), capsys)
    assert f"{kind} 'mine:{wrong}': mine.py has no '{wrong}'; did you mean '{CLASSES[kind]}'?" in said
    said = refusal(written(tmp_path, {**named("mine:{}"), kind: f"mime:{wrong}"}), capsys)
    assert "there is no module 'mime': no mime.py in" in said
    assert "did you mean 'mine.py'?" in said


def test_arrivals_are_open_or_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = MINE.replace(
        "return np.arange", "return None\n\n    def simple(self, count, rng):\n        return np.arange"
    )
    mine = mine.replace("    def sample(self, count, rng):\n        return None\n", "")
    said = refusal(written(tmp_path, named("mine:{}"), mine), capsys)
    assert said.endswith(
        "Regular has neither sample nor clients; expected: sample(self, count, rng) or clients(self, count, rng)"
    )


PLUGINS = EXPERIMENTS / "plugins"


@pytest.mark.parametrize("target", ["doubling.py:Doubling", "growing.py:Growing"])
def test_the_worked_examples_pass_their_check(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{PLUGINS / target}", "--examples", "60"]) == 0
    rows = dict(re.findall(r"^(\S[\w ]*?)\s{2,}(.*)$", capsys.readouterr().out, re.MULTILINE))
    assert rows["found"] == "allocate, free"
    assert rows["result"] == "passed"


@pytest.mark.parametrize(
    ("sound", "mistake", "rule"),
    [
        ("self.pool.give(sequence.block_table)", "self.pool.give(sequence.block_table[1:])", "INV-1"),
        ("num_stored + num_tokens", "num_stored", "INV-2"),
        ("sequence.block_table.clear()", "pass", "INV-1"),
        ("> self.pool.num_free", "> self.pool.num_free + 1", "INV-2"),
        ("table += self.pool.take", "table[:0] = self.pool.take", "INV-9"),
        ("min(max(missing, len(table)), self.pool.num_free)", "max(missing, len(table))", "INV-4"),
    ],
)
def test_a_planted_bug_is_shown_by_a_program_of_a_few_lines(
    sound: str,
    mistake: str,
    rule: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (PLUGINS / "doubling.py").read_text(encoding="utf-8")
    assert text.count(sound) == 1
    (tmp_path / "doubling.py").write_text(text.replace(sound, mistake), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["check", "doubling.py:Doubling", "--examples", "60", "--seed", "1"]) == 1
    said = capsys.readouterr().out
    assert f"\nresult     BROKEN: {rule}\n" in said
    assert re.search(
        r"^The pool: \d+ blocks of \d+ slots, \d+ free\. Block, references, contents:$", said, re.MULTILINE
    )
    assert re.search(r"^  block +0  \d  ", said, re.MULTILINE)
    program = said.partition("as a test:\n\n")[2]
    calls = [line for line in program.splitlines() if line.startswith("    bench.")]
    assert 1 <= len(calls) <= 5, program
    module: dict[str, object] = {"__name__": "pasted"}
    exec(compile(program, "pasted.py", "exec"), module)
    test = module["test_doubling"]
    assert callable(test)
    with pytest.raises(ContractError, match=f"^{rule}: "):
        test()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doubling.py"], "nothing is left"
