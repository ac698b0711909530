"""What a user sees who gets something wrong: sentences, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pagesim.cli import main

TEXT = """\
name: base
model: opt-13b
device: a100-40gb
memory: {kv_cache: 12 GiB}
workload:
  num_requests: 20
  arrivals: {process: poisson, rate: 2.0}
  lengths: {dataset: sharegpt}
scheduler: {max_num_seqs: 64}
allocators:
  max:   {policy: contiguous, reserve: max}
  paged: {policy: paged, block_size: 16}
"""

Edit = Callable[[str], str]


def swap(old: str, new: str) -> Edit:
    assert old in TEXT, old
    return lambda text: text.replace(old, new)


def add(line: str) -> Edit:
    return lambda text: text + line + "\n"


def whole(content: str) -> Edit:
    return lambda text: content


CASES: dict[str, tuple[Edit, str]] = {
    # the YAML itself
    "empty file": (whole(""), "e.yaml: is empty; an experiment needs name, model"),
    "only a comment": (whole("# nothing\n"), "e.yaml: is empty"),
    "a list": (
        whole("- name: base\n"),
        "e.yaml:1:1: an experiment is a mapping of keys to values, such as name: quickstart; this is a list",
    ),
    "plain text": (whole("hello\n"), "e.yaml:1:1: an experiment is a mapping of keys to values"),
    "broken YAML": (swap("rate: 2.0}", "rate: 2.0"), "e.yaml:8:10: is not valid YAML: "),
    "a tab": (
        swap("  num_requests", "\tnum_requests"),
        "e.yaml:6:1: is not valid YAML: a tab stands where only spaces may",
    ),
    "two documents": (add("---\nname: b"), "is not valid YAML: a second document begins here"),
    "an unknown anchor": (add("seeds: *nowhere"), "e.yaml:13:8: is not valid YAML: found undefined alias"),
    "an anchor loop": (add("question: &loop [*loop]"), "e.yaml:13:11: an alias refers to the value that it stands in"),
    "a tag": (
        add("seeds: !!python/object:os.system [1]"),
        "e.yaml:13:8: the tag !!python/object:os.system is not supported",
    ),
    "a duplicate key": (
        add("model: opt-66b"),
        "e.yaml:13:1: the key 'model' stands here a second time, first in line 2",
    ),
    "a duplicate row": (
        add("  max: {policy: paged}"),
        "e.yaml:13:3: the key 'max' stands here a second time, first in line 11",
    ),
    "deep nesting": (add("question: " + "[" * 5000), "e.yaml: is nested too deeply"),
    # keys and values
    "an unknown key": (
        add("basline: max"),
        "e.yaml:13:1: basline: unknown key 'basline'; did you mean 'baseline'?; allowed: ",
    ),
    "an unknown inner key": (
        swap("max_num_seqs", "max_seqs"),
        "e.yaml:9:13: scheduler.max_seqs: unknown key 'max_seqs'; did you mean 'max_num_seqs'?",
    ),
    "a missing key": (swap("device: a100-40gb\n", ""), "e.yaml:1:1: device: is required"),
    "a wrong unit": (
        swap("12 GiB", "12 GiBi"),
        "e.yaml:4:20: memory.kv_cache: unknown unit 'GiBi' in '12 GiBi'; allowed: B, KiB",
    ),
    "a negative rate": (swap("2.0", "-2.0"), "e.yaml:7:38: workload.arrivals.rate: must be above 0, is -2.0"),
    "a rate of text": (swap("2.0", "fast"), "e.yaml:7:38: workload.arrivals.rate: must be a number, is 'fast'"),
    "half a request": (swap("20\n", "20.5\n"), "e.yaml:6:17: workload.num_requests: must be a whole number, is 20.5"),
    "no rows": (
        lambda text: text[: text.index("  max:")],
        "e.yaml:10:12: allocators: must be a mapping of keys to values, is empty",
    ),
    "a row that is no mapping": (
        swap("{policy: paged, block_size: 16}", "paged"),
        "e.yaml:12:10: allocators.paged: must be a mapping of keys to values, is 'paged'",
    ),
    "a block of no tokens": (
        swap("block_size: 16", "block_size: 0"),
        "e.yaml:12:38: allocators.paged.block_size: must be at least 1, is 0",
    ),
    "a baseline that is no row": (
        add("baseline: pagd"),
        "e.yaml:13:11: baseline: no row is called 'pagd'; did you mean 'paged'?",
    ),
    "a reserved row": (
        add("  ideal: {policy: paged}"),
        "e.yaml:13:3: allocators.ideal: is the name of the added bound",
    ),
    "an empty sweep": (
        add("sweep: {workload.arrivals.rate: []}"),
        "e.yaml:13:33: sweep.workload.arrivals.rate: needs at least one value",
    ),
    "an unknown swept key": (
        add("sweep: {workload.arrival.rate: [1]}"),
        "e.yaml:13:9: sweep.workload.arrival.rate: workload has no key 'arrival'; did you mean 'arrivals'?",
    ),
    "a swept value that is wrong": (
        add("sweep: {workload.arrivals.rate: [1, 0]}"),
        "e.yaml:13:37: workload.arrivals.rate: must be above 0, is 0 (at the sweep point",
    ),
    "seeds listed twice": (add("seeds: [3, 4, 3]"), "e.yaml:13:15: seeds[2]: seed 3 is listed twice"),
    "a policy that does not chunk": (
        swap("{max_num_seqs: 64}", "{policy: static, max_model_len: 4096}"),
        "e.yaml:9:1: scheduler.max_num_batched_tokens: must be at least max_model_len (4096) with policy static",
    ),
    "swap without host memory": (
        swap("max_num_seqs: 64", "preemption: swap"),
        "e.yaml:9:25: scheduler.preemption: swap needs host memory",
    ),
    "absurd host memory": (
        swap("12 GiB", "12 GiB, host_kv_cache: 100 TiB"),
        "e.yaml:4:43: memory.host_kv_cache: 100 TiB is more than 64 TiB",
    ),
    "gamma without cv": (
        swap("process: poisson", "process: gamma"),
        "workload.arrivals.cv: is required for arrivals by gamma",
    ),
    "a data set and distributions": (
        swap("{dataset: sharegpt}", "{dataset: sharegpt, prompt: {distribution: constant, value: 3}}"),
        "e.yaml:8:32: workload.lengths.prompt: a dataset gives the lengths already",
    ),
    # names
    "an unknown model": (swap("opt-13b", "opt-31b"), "e.yaml:2:8: model: "),
    "an unknown device": (swap("a100-40gb", "a100-04gb"), "e.yaml:3:9: device: "),
    "an unknown allocator": (
        swap("policy: paged", "policy: pagd"),
        "e.yaml:12:19: allocators.paged.policy: unknown allocator 'pagd'; did you mean 'paged'?",
    ),
    "an unknown scheduler": (
        swap("max_num_seqs: 64", "policy: chunky"),
        "e.yaml:9:21: scheduler.policy: unknown scheduler 'chunky'; did you mean 'chunked'?",
    ),
    "an unknown victim": (
        swap("max_num_seqs: 64", "victim: oldest"),
        "e.yaml:9:21: scheduler.victim: unknown victim 'oldest'",
    ),
    "an unknown backend": (
        add("backend: cost_modle"),
        "e.yaml:13:10: backend: unknown backend 'cost_modle'; did you mean 'cost_model'?",
    ),
    "an unknown option": (
        swap("reserve: max", "reservation: max"),
        "e.yaml:11:44: allocators.max.reservation: Contiguous takes no 'reservation'; did you mean 'reserve'?",
    ),
    "an option that pagesim gives": (
        swap("reserve: max", "max_model_len: 3"),
        "allocators.max.max_model_len: is given to Contiguous by pagesim",
    ),
    "an unknown data set": (
        swap("sharegpt", "sharegtp"),
        "e.yaml:8:22: workload.lengths.dataset: unknown dataset 'sharegtp'; did you mean 'sharegpt'?",
    ),
    "an unknown distribution": (
        swap("{dataset: sharegpt}", "{prompt: {distribution: normal}, output: {distribution: constant, value: 3}}"),
        "e.yaml:8:36: workload.lengths.prompt.distribution: unknown lengths 'normal'",
    ),
    "an unknown option of a distribution": (
        swap(
            "{dataset: sharegpt}",
            "{output: {distribution: constant, value: 3},\n"
            "    prompt: {distribution: quantiles, options: {quantile: [1, 2]}}}",
        ),
        "e.yaml:9:59: workload.lengths.prompt.options.quantile: Quantiles takes no",
    ),
    "weights larger than the device": (swap("a100-40gb", "l4"), "e.yaml:2:8: model: the weights of opt-13b"),
    "a trace that is not there": (
        lambda text: (
            text[: text.index("  num_requests")]
            + "  trace: {path: nowhere.csv, format: azure}\n"
            + text[text.index("scheduler") :]
        ),
        "e.yaml:6:17: workload.trace.path: there is no trace 'nowhere.csv'",
    ),
    "a trace with a malformed row": (
        lambda text: (
            text[: text.index("  num_requests")]
            + "  trace: {path: broken.csv, format: azure}\n"
            + text[text.index("scheduler") :]
        ),
        "broken.csv:2: ContextTokens: is 'x', must be a whole number",
    ),
    "a plug-in that is not there": (
        swap("policy: paged", 'policy: "mine:Mine"'),
        "e.yaml:12:19: allocators.paged.policy: there is no module 'mine': no mine.py in ",
    ),
    "a plug-in that raises": (
        swap("policy: paged", 'policy: "broken:Mine"'),
        "e.yaml:12:19: allocators.paged.policy: broken.py, line 2 raises while it is imported: ZeroDivisionError",
    ),
    "a plug-in without a method": (
        swap("policy: paged", 'policy: "half.py:Half"'),
        "Half has no method free; expected: free(self, sequence)",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two plug-ins that cannot be used."""
    (tmp_path / "broken.py").write_text("x = 1\nx / 0\n")
    (tmp_path / "broken.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,x,3\n")
    (tmp_path / "half.py").write_text("class Half:\n    def allocate(self, sequence, num_tokens): ...\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Call the command line, which must refuse with sentences; return them."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert "internal error" not in shown.err
    assert sorted(Path.cwd().rglob("*")) == before, "nothing is left behind"
    return shown.err


@pytest.mark.parametrize("command", [["validate"], ["run"], ["run", "--dry-run"]], ids=" ".join)
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_experiment_is_refused_at_its_place(
    case: str, command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, expected = CASES[case]
    Path("e.yaml").write_text(edit(TEXT), encoding="utf-8")
    message = refused(capsys, *command, "e.yaml")
    assert expected in message
    said = [line for line in message.splitlines() if not line.startswith("  |")]
    assert len(said) == 1, "one problem, one sentence"
    assert said[0].startswith("e.yaml:")


def test_several_problems_are_told_in_one_pass(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e.yaml").write_text(TEXT.replace("rate: 2.0", "rate: 0").replace("block_size: 16", "block_size: x"))
    message = refused(capsys, "run", "e.yaml", "--set", "seeds=[1,1]", "--set", "foo=3")
    heads = [line.split(" ")[0] for line in message.splitlines() if not line.startswith("  |")]
    assert heads == ["--set", "e.yaml:7:38:", "e.yaml:12:38:", "--set"]


def test_wrong_names_at_a_sweep_point(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e.yaml").write_text(TEXT + "sweep: {model: [opt-13b, opt-31b]}\n")
    assert "e.yaml:13:26: model: " in refused(capsys, "validate", "e.yaml")


def test_files_that_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e.yaml").write_bytes(b"name: a\nquestion: \xff\n")
    assert "e.yaml:2: is not text in UTF-8" in refused(capsys, "run", "e.yaml")
    Path("null.yaml").write_bytes(b"name: a\nquestion: a\0b\n")
    assert "null.yaml:2: is not valid YAML: " in refused(capsys, "run", "null.yaml")
    assert refused(capsys, "run", "ee.yaml").startswith("there is no experiment file 'ee.yaml'; did you mean 'e.yaml'?")
    assert refused(capsys, "run", ".").startswith("'.' is a folder; name an experiment file, such as e.yaml")
    Path("big.yaml").write_bytes(b"#" * (5 * 2**20))
    assert refused(capsys, "run", "big.yaml") == "'big.yaml' has more than 4 MiB; that is no experiment file\n"
    assert refused(capsys, "run", "x" * 5000).startswith("cannot read 'xxx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e.yaml").write_text(TEXT)
    Path("e.yaml").chmod(0)
    assert refused(capsys, "run", "e.yaml") == "cannot read 'e.yaml': Permission denied\n"


@pytest.mark.parametrize("out", ["e.yaml", "e.yaml/below/it", "/proc/nothing/here"])
def test_results_that_cannot_be_written(out: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("e.yaml").write_text(TEXT)
    message = refused(capsys, "run", "e.yaml", "--out", out)
    assert message.startswith(f"results cannot be written to {out!r}: ")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["rnu"], "pagesim: No such command 'rnu'."),
        (["run"], "pagesim run: Missing argument 'EXPERIMENT.yaml'. See 'pagesim run --help'."),
        (["run", "e.yaml", "--jbos", "2"], "pagesim run: No such option: --jbos"),
        (
            ["run", "e.yaml", "--jobs", "0"],
            "pagesim run: Invalid value for '--jobs' / '-j': ",
        ),
        (
            ["run", "e.yaml", "--jobs", "two"],
            "pagesim run: Invalid value for '--jobs' / '-j': ",
        ),
        (["list", "colours"], "pagesim list: Invalid value for "),
        (["validate"], "pagesim validate: name an experiment file, or ask for --schema"),
        (["init", "a/../b c"], "'a/../b c' is no name for an experiment"),
        (["compare", "nothing"], "there are no results 'nothing'"),
        (["compare"], "pagesim compare: Missing argument 'RESULTS...'"),
        (["plot", "nothing"], "there are no results 'nothing'"),
        (["plot", "nothing", "--kind", "pie"], "pagesim plot: Invalid value for '--kind': 'pie' is not one of"),
    ],
)
def test_a_wrong_command_is_refused(
    arguments: list[str], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *arguments)
    assert message.startswith(expected)
    assert len(message.splitlines()) == 1


def test_init_never_overwrites(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine_allocator.py").write_text("precious")
    assert refused(capsys, "init", "mine").startswith("'mine_allocator.py' exists already and is left as it is")
    assert not Path("mine.yaml").exists()
    assert refused(capsys, "init", "nowhere/mine").startswith("cannot write 'nowhere/mine_allocator.py': No such file")


def test_debug_shows_where_an_error_came_from(folder: Path) -> None:
    Path("e.yaml").write_text("")
    for arguments in (["--debug", "run", "e.yaml"], ["run", "e.yaml", "--debug"]):
        done = subprocess.run([sys.executable, "-m", "pagesim.cli", *arguments], capture_output=True, text=True)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "ConfigError: e.yaml: is empty" in done.stderr


def test_help_is_light_and_plain() -> None:
    code = (
        "import sys; from pagesim.cli import main; code = main(['--help']); "
        "heavy = {'simpy', 'numpy', 'pandas', 'pydantic', 'yaml', 'rich', 'matplotlib'} & set(sys.modules); "
        "print(heavy or 'light', code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("light 0\n")
    assert "\x1b" not in done.stdout
    for command in ("init", "run", "validate", "list", "compare", "plot"):
        assert f"\n  {command} " in done.stdout


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: pagesim [OPTIONS] COMMAND")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pagesim 0.")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m pagesim.cli validate --schema | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_schema_needs_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["name", "model", "device", "workload", "allocators"]
