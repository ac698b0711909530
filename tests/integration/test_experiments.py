"""Every experiment of the repository, at a reduced size, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from pagesim import experiment_file
from pagesim.experiment_file.names import check_names
from tests.support.experiments import EXPERIMENTS, Finished, check_account, run

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))

REDUCED = {
    "allocators-under-load": ["workload.num_requests=120", "sweep={workload.arrivals.rate: [0.5, 2.0]}"],
    "azure-conversation": ["workload.trace.limit=400"],
    "beam-search": ["workload.num_requests=25", "sweep={workload.sampling.beam_width: [2, 6]}"],
    "block-size": ["workload.num_requests=200", "sweep={allocators.paged.block_size: [1, 16, 256]}", "seeds=[0]"],
    "gpu-parallel-sampling": ["backend=cost_model", "workload.num_requests=20"],
    "gpu-quickstart": ["backend=cost_model", "workload.num_requests=40"],
    "growing-reservations": ["workload.num_requests=300"],
    "long-context": ["workload.trace.limit=60"],
    "memory-waste": ["workload.num_requests=200", "horizon=100", "seeds=[0]"],
    "parallel-sampling": ["workload.num_requests=60", "sweep={workload.sampling.n: [2, 4]}"],
    "quickstart": ["workload.num_requests=300"],
    "shared-prefix": ["workload.num_requests=120"],
    "swap-vs-recompute": ["workload.num_requests=250", "sweep={allocators.*.block_size: [1, 16]}"],
}
"""What makes each of them small, and able to run without a GPU."""

NEEDS_TRACES = {"azure-conversation", "long-context"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """Return what has been run so far: each experiment is run once for all of its tests."""
    return {}


@pytest.fixture
def finished(
    request: pytest.FixtureRequest, results: dict[str, Finished], tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """Return the results of the experiment that the test is parametrized with."""
    name: str = request.param
    if name in NEEDS_TRACES:
        request.getfixturevalue("traces_dir")
    if name not in results:
        folder = tmp_path_factory.mktemp(name)
        results[name] = run(EXPERIMENTS / f"{name}.yaml", folder / "out", *REDUCED[name])
    return results[name]


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("finished", names, indirect=True)


def test_none_is_left_out() -> None:
    assert set(NAMES) <= set(REDUCED)
    assert len(NAMES) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_it_is_for(name: str) -> None:
    path = EXPERIMENTS / f"{name}.yaml"
    lines = path.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=./pagesim.schema.json"
    # A GPU is not asked for here.
    file = experiment_file.load(path, [each for each in REDUCED[name] if each.startswith("backend=")])
    check_names(file)
    assert file.config.name == name
    assert file.config.question.endswith("?")
    listed = (EXPERIMENTS / "README.md").read_text()
    assert f"[{name}.yaml]({name}.yaml)" in listed
    assert file.config.question in listed


def test_the_schema_beside_them_is_that_of_the_program() -> None:
    stored = json.loads((EXPERIMENTS / "pagesim.schema.json").read_text())
    assert stored == json.loads(json.dumps(experiment_file.schema())), (
        "pagesim validate --schema > experiments/pagesim.schema.json"
    )


@of(*NAMES)
def test_each_runs(finished: Finished) -> None:
    check_account(finished)
    summary = finished.summary
    stored = yaml.safe_load((finished.folder / "experiment.yaml").read_text())
    points = 1
    for values in stored.get("sweep", {}).values():
        points *= len(values)
    rows = len(stored["allocators"]) + stored["ideal"]
    assert len(summary) == rows * points * len(stored["seeds"])
    assert not summary["run"].duplicated().any()
    assert (summary["finished"] > 0).all()
    assert (summary["refused"] == 0).all()


@of(*NAMES)
def test_allocators_see_the_same_requests(finished: Finished) -> None:
    summary, manifest = finished.summary, json.loads((finished.folder / "manifest.json").read_text())
    digests = {state["run"]: state["workload_digest"] for state in manifest["runs"]}
    keys = ["seed", *manifest["sweep_keys"]]
    for _, group in summary.groupby(keys):
        assert len({digests[name] for name in group["run"]}) == 1
        first = finished.requests(group["run"].iloc[0])[["request", "arrival_s", "prompt_tokens", "output_tokens"]]
        for name in group["run"].iloc[1:]:
            assert finished.requests(name)[first.columns].equals(first)


@of("quickstart", "azure-conversation", "long-context", "memory-waste")
def test_who_reserves_less_uses_more(finished: Finished) -> None:
    rows = finished.rows()
    assert rows.utilization["max"] < rows.utilization["pow2"] < rows.utilization["paged"]
    assert rows.utilization["oracle"] < rows.utilization["paged"]
    assert rows.internal["max"] > 0.5
    assert rows.internal["oracle"] == 0
    assert rows.external["paged"] < 0.05
    assert rows.mean_batched_requests["max"] < rows.mean_batched_requests["paged"]
    assert rows.throughput_output_tokens_per_s["max"] < rows.throughput_output_tokens_per_s["paged"]


@of("quickstart")
def test_max_holds_seven_requests_and_cannot_use_the_tail(finished: Finished) -> None:
    """15,728 slots: 7 reservations of 2,048 tokens, and 1,392 slots (8.85 %) behind them."""
    row = finished.rows().loc["max"]
    assert row.peak_batched_requests == 7
    assert row.external == pytest.approx(1392 / 15728, abs=0.002)
    assert row.limited_by == "memory"
    assert row.preemptions_recompute == 0


@of("allocators-under-load")
def test_above_its_knee_max_queues(finished: Finished) -> None:
    low, high = (finished.rows(**{"workload.arrivals.rate": rate}) for rate in (0.5, 2.0))
    latency = "normalized_latency_s_per_token"
    assert low[latency]["max"] < 2 * low[latency]["paged"]
    assert high[latency]["max"] > 10 * high[latency]["paged"]
    assert high["overloaded"]["max"]
    assert not high["overloaded"]["paged"]
    assert high["limited_by"]["max"] == "memory"


@of("block-size")
def test_large_blocks_are_rarely_full(finished: Finished) -> None:
    rows = finished.summary.set_index("allocators.paged.block_size")
    assert rows.utilization[1] > rows.utilization[16] > rows.utilization[256]
    assert rows.internal[1] == 0
    assert rows.internal[1] < rows.internal[16] < rows.internal[256]
    unused = rows.reserved + rows.internal
    assert unused[1] < unused[16] < unused[256]


@of("parallel-sampling")
def test_samples_share_the_prompt(finished: Finished) -> None:
    for n in (2, 4):
        rows = finished.rows(**{"workload.sampling.n": n})
        assert rows.sharing_saving["paged"] == 0
        assert 0.05 < rows.sharing_saving["cow"] < rows.sharing_saving["ideal"] < 0.5
        assert rows.utilization["cow"] < rows.utilization["paged"]
        assert 0 < rows.copied_blocks["cow"] < rows.copied_blocks["paged"]
        assert rows.copied_blocks["cow"] <= (n - 1) * 60, "k sharers of a partial block make k - 1 copies"
        assert rows.copied_blocks["ideal"] == 0, "with blocks of one token there is no partial block"


@of("beam-search")
def test_beams_share_more_the_more_of_them(finished: Finished) -> None:
    two, six = (finished.rows(**{"workload.sampling.beam_width": width}) for width in (2, 6))
    assert 0.3 < two.sharing_saving["cow"] < 0.55
    assert 0.55 < six.sharing_saving["cow"] < 0.8
    for rows in (two, six):
        assert rows.sharing_saving["paged"] == 0
        assert rows.utilization["cow"] < rows.utilization["paged"]
        assert rows.copied_blocks["cow"] < rows.copied_blocks["paged"]


@of("shared-prefix")
def test_a_prefix_is_kept_once(finished: Finished) -> None:
    for tokens in (80, 341):
        rows = finished.rows(**{"workload.prefix.tokens": tokens})
        assert rows.sharing_saving["oracle"] == rows.sharing_saving["paged"] == 0
        assert rows.sharing_saving["cow"] > 0.3
        assert rows.throughput_output_tokens_per_s["cow"] > 1.1 * rows.throughput_output_tokens_per_s["oracle"]
        assert rows.ttft_p50_s["cow"] < rows.ttft_p50_s["paged"]


@of("swap-vs-recompute")
def test_small_blocks_are_slow_to_swap(finished: Finished) -> None:
    stall = {}
    for size in (1, 16):
        rows = finished.rows(**{"allocators.*.block_size": size})
        assert rows.preemptions_recompute["recompute"] > 0
        assert rows.preemptions_swap["recompute"] == 0
        assert rows.swapped_out_bytes["recompute"] == 0
        assert rows.preemptions_swap["swap"] > 0
        assert rows.swapped_out_bytes["swap"] == rows.swapped_in_bytes["swap"] > 0
        stall[size] = rows.swap_stall_s["swap"] / rows.swapped_out_bytes["swap"]
    assert stall[1] > 3 * stall[16], "seconds of transfer a byte"


@of("growing-reservations")
def test_what_grows_copies_and_what_doubles_holds_too_much(finished: Finished) -> None:
    rows = finished.rows()
    assert rows.copied_blocks["growing"] > rows.copied_blocks["spare"] > 0
    assert rows.copied_blocks["doubling"] == rows.copied_blocks["paged"] == 0
    assert rows.preemptions_recompute["growing"] > 5 * rows.preemptions_recompute["paged"]
    assert rows.preemptions_recompute["spare"] < rows.preemptions_recompute["paged"]
    assert rows.internal["doubling"] > 5 * rows.internal["growing"] > 5 * rows.internal["paged"]
    output = rows.throughput_output_tokens_per_s
    assert output["pow2"] < output["growing"] < output["spare"] < output["paged"]
    assert output["growing"] < output["doubling"] < output["paged"]


@of("quickstart")
def test_what_a_results_folder_holds(finished: Finished) -> None:
    assert sorted(path.name for path in finished.folder.iterdir()) == [
        "experiment.yaml",
        "manifest.json",
        "runs",
        "summary.csv",
        "summary.parquet",
    ]
    runs = sorted(path.name for path in (finished.folder / "runs").iterdir())
    assert runs == [f"{name}-seed0" for name in ("ideal", "max", "oracle", "paged", "pow2")]
    for name in runs:
        assert sorted(path.name for path in (finished.folder / "runs" / name).iterdir()) == [
            "memory.parquet",
            "requests.parquet",
            "state.json",
            "summary.json",
            "timeline.parquet",
        ]
        timeline = finished.timeline(name)
        assert 500 <= len(timeline) <= 1000
        assert timeline["width_s"].nunique() == 1
        assert (timeline["t_s"].diff().dropna() - timeline["width_s"].iloc[0]).abs().max() < 1e-6
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    assert manifest["name"] == "quickstart"
    assert manifest["state"] == "complete"
    assert [state["state"] for state in manifest["runs"]] == ["done"] * 5
    header = (finished.folder / "summary.csv").read_text().splitlines()[0].split(",")
    assert header[:8] == ["run", "allocator", "policy", "backend", "seed", "utilization", "cached", "reserved"]
    assert header == list(finished.summary.columns)
    assert not [name for name in header if "wall" in name or "peak_memory" in name], "INV-6"


def test_results_go_to_a_folder_by_name_and_latest_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pagesim.cli import main

    shutil.copy(EXPERIMENTS / "quickstart.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    small = ["--set", "workload.num_requests=40", "--no-report", "--quiet"]
    assert main(["run", "quickstart.yaml", *small]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert folder.parent == Path("results/quickstart")
    assert (Path("results/quickstart/latest")).resolve() == folder.resolve()
    assert main(["compare", "quickstart"]) == 0
    assert "paged" in capsys.readouterr().out
