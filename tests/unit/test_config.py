"""The experiment file: reading with positions, settings, sweeps, checks between keys, writing back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.config import ExperimentConfig
from pagesim.config_types import write_bytes, write_time
from pagesim.errors import ConfigError, PluginError
from pagesim.experiment_file import at_point, dump, from_dict, load, points, schema
from pagesim.units import parse_bytes, parse_time

BASE: dict[str, Any] = {
    "name": "base",
    "model": "opt-13b",
    "device": "a100-40gb",
    "workload": {
        "num_requests": 100,
        "arrivals": {"process": "poisson", "rate": 2.0},
        "lengths": {"dataset": "sharegpt"},
    },
    "allocators": {"max": {"policy": "contiguous", "reserve": "max"}, "paged": {"policy": "paged", "block_size": 16}},
}

TEXT = """\
name: base
model: opt-13b
device: a100-40gb
workload:
  num_requests: 1e2
  arrivals: {process: poisson, rate: 2.0}
  lengths: {dataset: sharegpt}
allocators:
  max:   {policy: contiguous, reserve: max}
  paged: {policy: paged, block_size: 16}
"""


def base(**changes: Any) -> dict[str, Any]:
    """A valid experiment, with dotted keys changed: ``scheduler__policy="mixed"``."""
    data = copy.deepcopy(BASE)
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        here = data
        for part in parents:
            here = here.setdefault(part, {})
        here[last] = value
    return data


def write(folder: Path, text: str) -> Path:
    path = folder / "e.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(data: dict[str, Any], *sets: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_dict(data, sets=sets)
    return str(caught.value).splitlines()


def test_a_file_and_the_same_data_give_the_same_experiment(tmp_path: Path) -> None:
    file = load(write(tmp_path, TEXT))
    assert file.config == from_dict(BASE).config
    assert file.base_dir == tmp_path
    assert file.source == TEXT


@pytest.mark.parametrize(
    ("written", "value"), [("1e3", 1000), ("2E3", 2000), ("1e+2", 100), ("0x10", 16), ("010", 10), ("1_000", 1000)]
)
def test_numbers_that_yaml_1_1_takes_for_something_else(tmp_path: Path, written: str, value: int) -> None:
    file = load(write(tmp_path, TEXT.replace("1e2", written)))
    assert file.config.workload.num_requests == value


def test_small_floats_and_words_that_yaml_1_1_takes_for_booleans(tmp_path: Path) -> None:
    text = TEXT.replace("max:  ", "no:   ").replace("reserve: max", "on: off, small: 1e-3, ratio: 1:30")
    file = load(write(tmp_path, text))
    assert file.config.allocators["no"].options == {"on": "off", "small": 0.001, "ratio": "1:30"}


def test_merge_keys_and_aliases_are_written_out(tmp_path: Path) -> None:
    text = TEXT + "  small: {<<: &row {policy: paged, block_size: 1}, watermark: 0.5}\n  other: *row\n"
    rows = load(write(tmp_path, text)).config.allocators
    assert (rows["small"].block_size, rows["small"].watermark) == (1, 0.5)
    assert (rows["other"].block_size, rows["other"].watermark) == (1, None)


def test_every_problem_is_told_at_once_each_at_its_place(tmp_path: Path) -> None:
    text = TEXT.replace("rate: 2.0", "rate: -1").replace("model:", "modell:") + "seeds: [1, 1]\nbaseline: pagd\n"
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    heads = [line for line in str(caught.value).splitlines() if line.startswith(str(path))]
    assert [head.removeprefix(f"{path}:").split(" ", 1)[0] for head in heads] == [
        "1:1:",
        "2:1:",
        "6:38:",
        "11:12:",
        "12:11:",
    ]
    assert heads[0].endswith("model: is required")
    assert "unknown key 'modell'; did you mean 'model'?; allowed: name, question, model," in heads[1]
    assert heads[2].endswith("workload.arrivals.rate: must be above 0, is -1")
    assert heads[3].endswith("seeds[1]: seed 1 is listed twice")
    assert heads[4].endswith("baseline: no row is called 'pagd'; did you mean 'paged'?; rows: max, paged, ideal")


def test_a_caret_stands_under_the_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, TEXT.replace("16", "0")))
    lines = str(caught.value).splitlines()
    assert lines[1] == "  |   paged: {policy: paged, block_size: 0}"
    assert lines[2].index("^") == lines[1].index("0}")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"baseline": "nix"}, "baseline: no row is called 'nix'; rows: max, paged, ideal"),
        ({"allocators__ideal": {"policy": "paged"}}, "allocators.ideal: is the name of the added bound; rename"),
        ({"allocators": {}}, "allocators: must have at least one entry"),
        ({"allocators": {"a.b": {"policy": "paged"}}}, "allocators.a.b: 'a.b' is no name for a row"),
        ({"allocators__Max": {"policy": "paged"}}, "allocators.Max: differs from max in case only"),
        (
            {"allocators__paged": {"policy": "pagd"}},
            "allocators.paged.policy: unknown allocator 'pagd'; did you mean 'paged'?",
        ),
        ({"workload__arrivals": {"process": "poisson"}}, "workload.arrivals.rate: is required for arrivals by poisson"),
        (
            {"workload__arrivals": {"process": "gamma", "rate": 1}},
            "workload.arrivals.cv: is required for arrivals by gamma",
        ),
        (
            {"workload__arrivals": {"process": "closed_loop", "rate": 1, "num_clients": 3}},
            "workload.arrivals.rate: does not belong to arrivals by closed_loop, which takes num_clients, think_time",
        ),
        (
            {"workload__arrivals": {"process": "closed_loop"}},
            "workload.arrivals.num_clients: is required for arrivals by closed_loop",
        ),
        (
            {"workload__arrivals": {"process": "trace"}},
            "workload.arrivals.process: is trace, but there is no workload.trace",
        ),
        ({"workload__arrivals": None}, "workload.arrivals: is required unless there is a trace"),
        ({"workload__num_requests": None}, "workload.num_requests: is required unless there is a trace"),
        ({"workload__lengths": None}, "workload.lengths: is required unless there is a trace"),
        ({"workload__lengths": {}}, "workload.lengths: needs either dataset, or prompt and output"),
        (
            {"workload__lengths": {"prompt": {"distribution": "constant", "value": 3}}},
            "workload.lengths: output is required beside prompt",
        ),
        (
            {"workload__lengths": {"dataset": "a", "output": {"distribution": "constant", "value": 3}}},
            "workload.lengths.output: a dataset gives the lengths already",
        ),
        (
            {"workload__lengths__output": {"distribution": "uniform", "low": 9, "high": 3}},
            "workload.lengths.output.high: must be at least low (9), is 3",
        ),
        (
            {"workload__lengths__output": {"distribution": "constant", "mean": 9}},
            "workload.lengths.output.value: is required for a constant distribution",
        ),
        ({"workload__trace": {"path": "x", "format": "azure"}}, "workload.lengths: a trace gives the lengths already"),
        (
            {"workload": {"trace": {"path": "x", "format": "lengths"}}},
            "workload.trace.prompt_column: is required for a trace of format lengths",
        ),
        (
            {"workload": {"num_requests": 5, "trace": {"path": "x", "format": "azure"}}},
            "workload.num_requests: a trace has its own number of requests; use trace.limit",
        ),
        ({"workload__sampling": {"n": 2, "beam_width": 1}}, "workload.sampling.n: must be 1 with beam_width, is 2"),
        (
            {"workload__sampling": {"n": 300}},
            "workload.sampling.n: must not exceed scheduler.max_num_seqs (256), is 300",
        ),
        ({"workload__sampling": {"beam_width": 300}}, "workload.sampling.beam_width: must not exceed"),
        ({"workload__sampling": {"divergence": 2}}, "workload.sampling.divergence: concerns beams"),
        ({"workload__prefix": {"tokens": 5}}, "workload.prefix.num_groups: must be at least 1 with tokens"),
        ({"workload__prefix": {"pin": True}}, "workload.prefix.pin: there is no prefix to pin"),
        (
            {"workload__prefix": {"tokens": 2048, "num_groups": 1}},
            "workload.prefix.tokens: must be below scheduler.max_model_len (2048), is 2048",
        ),
        (
            {"scheduler": {"max_num_batched_tokens": 100}},
            "scheduler.max_num_batched_tokens: must be at least max_num_seqs (256), is 100",
        ),
        (
            {"scheduler": {"policy": "mixed", "max_model_len": 4096}},
            "scheduler.max_num_batched_tokens: must be at least max_model_len (4096) with policy mixed",
        ),
        ({"scheduler": {"preemption": "swap"}}, "scheduler.preemption: swap needs host memory"),
        ({"allocators__paged__preemption": "swap"}, "allocators.paged.preemption: swap needs host memory"),
        ({"memory": {"host_kv_cache": "65 TiB"}}, "memory.host_kv_cache: 65 TiB is more than 64 TiB"),
        ({"memory": {"kv_cache": "12 GiBs"}}, "memory.kv_cache: unknown unit 'GiBs'"),
        ({"memory": {"kv_cache": "atuo"}}, "memory.kv_cache: 'atuo' is no memory size; write auto, or a size"),
        ({"memory": {"kv_cache": 0}}, "memory.kv_cache: a KV cache of 0 bytes holds nothing"),
        ({"memory": {"kv_cache": "1e999999999 GiB"}}, "memory.kv_cache: '1e999999999 GiB' is no memory size"),
        ({"memory": {"kv_cache": True}}, "memory.kv_cache: must be a memory size such as 12 GiB, is true"),
        ({"horizon": "0 s"}, "horizon: must be above 0"),
        ({"horizon": "1 year"}, "horizon: unknown unit 'year'"),
        ({"horizon": "9000 h"}, "horizon: 9000 h is more than 106 days"),
        ({"slo": {"ttft": 0}}, "slo.ttft: must be above 0"),
        ({"seeds": []}, "seeds: must have at least one entry"),
        ({"seeds": [-1]}, "seeds[0]: must be at least 0, is -1"),
        ({"scheduler": {"max_num_seqs": True}}, "scheduler.max_num_seqs: must be a number, is true"),
        ({"scheduler": {"max_num_seqs": 2.5}}, "scheduler.max_num_seqs: must be a whole number, is 2.5"),
        ({"scheduler": {"too_long": "refus"}}, "scheduler.too_long: 'refus' is not allowed; did you mean 'refuse'?"),
        ({"scheduler": []}, "scheduler: must be a mapping of keys to values, is a list"),
        ({"workload__arrivals__rate": float("nan")}, "workload.arrivals.rate: must be a finite number, is nan"),
        ({"name": "a b"}, "name: must begin with a letter or digit"),
        ({"name": 7}, "name: must be text (quote it if it looks like a number), is 7"),
        ({"model": 7}, "model: must be a name, or a mapping with its values, is 7"),
        ({"backend": "cost_modle"}, "backend: unknown backend 'cost_modle'; did you mean 'cost_model'?"),
        ({"backend": {"scale": 2}}, "backend: a mapping needs the key name"),
        ({"sweep": {"workload.arrivals.rate": []}}, "sweep.workload.arrivals.rate: needs at least one value"),
        ({"sweep": {"workload.rate": [1]}}, "sweep.workload.rate: workload has no key 'rate'"),
        ({"sweep": {"seeds": [1]}}, "sweep.seeds: seeds are crossed with every point already"),
        ({"sweep": {"scheduler.max_num_seqs": [1, 1]}}, "sweep.scheduler.max_num_seqs: 1 is listed twice"),
        ({"sweep": {"scheduler": [{"max_num_seqs": 1}]}}, "sweep.scheduler: takes single values, this is a mapping"),
        (
            {"sweep": {"allocators.*.block_size": [1], "allocators.paged.block_size": [2]}},
            "sweep.allocators.paged.block_size: reaches the same value as 'allocators.*.block_size'",
        ),
        ({"sweep": {"scheduler.max_num_seqs": list(range(1, 10_002))}}, "sweep: has 10,001 points, more than 10,000"),
        (
            {"sweep": {"scheduler.max_num_seqs": [1, 4096]}},
            "scheduler.max_num_batched_tokens: must be at least max_num_seqs (4096), is 2048 "
            "(at the sweep point scheduler.max_num_seqs=4096)",
        ),
    ],
)
def test_what_must_hold_between_keys(changes: dict[str, Any], expected: str) -> None:
    assert [line for line in problems(base(**changes)) if line.startswith(expected)], problems(base(**changes))


def test_a_trace_needs_nothing_else() -> None:
    config = from_dict(base(workload={"trace": {"path": "t.csv", "format": "azure"}})).config
    assert config.workload.trace is not None
    assert config.workload.num_requests is None


def test_a_point_that_is_wrong_for_several_reasons_is_told_once() -> None:
    data = base(sweep={"scheduler.max_num_seqs": [4096, 2], "workload.arrivals.rate": [1, 2, 3]})
    assert len(problems(data)) == 1


def test_set_changes_creates_and_reaches_every_row() -> None:
    sets = [
        "scheduler.max_num_seqs=128",
        "allocators.*.block_size=32",
        "allocators.max.placement=first_fit",
        "slo.ttft=2 s",
        "sweep.workload.arrivals.rate=[1, 2]",
        "allocators.new={policy: paged}",
        "seeds=[7, 8]",
        "workload.num_requests=1e3",
    ]
    config = from_dict(BASE, sets=sets).config
    assert config.scheduler.max_num_seqs == 128
    assert [config.allocators[name].block_size for name in ("max", "paged", "new")] == [32, 32, None]
    assert config.allocators["max"].options == {"reserve": "max", "placement": "first_fit"}
    assert config.slo.ttft == 2 * 10**12
    assert config.sweep == {"workload.arrivals.rate": [1, 2]}
    assert config.seeds == [7, 8]
    assert config.workload.num_requests == 1000
    assert from_dict(BASE).config.seeds == [0], "the data that was given stays as it was"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("schedular.policy=mixed", "there is no key 'schedular'; did you mean 'scheduler'?"),
        ("block_size=3", "there is no key 'block_size'; did you mean 'allocators.max.block_size'?"),
        ("allocators.pagd.block_size=3", "allocators has no row 'pagd'; did you mean 'paged'?; rows: max, paged"),
        ("model.num_layers=3", "model is 'opt-13b', not a mapping, so it has no key 'num_layers'"),
        ("seeds.0=3", "seeds has no keys of its own, so not '0' either"),
        ("scheduler.*=3", "* stands for every row of allocators, nothing else"),
        ("scheduler..policy=3", "'scheduler..policy' is no key"),
        ("seeds", "write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("seeds=[1", "the value is not valid YAML"),
        ("scheduler.max_num_seqs=abc", "scheduler.max_num_seqs: must be a whole number, is 'abc'"),
        ("scheduler.policy=", "scheduler.policy: must be text"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, expected: str) -> None:
    (line,) = problems(BASE, setting)
    assert line.startswith(f"--set {setting}: {expected}")


def test_points_are_crossed_in_order_and_applied() -> None:
    sweep = {"workload.arrivals.rate": [1, 2], "allocators.*.block_size": [4, 8]}
    file = from_dict(base(sweep=sweep))
    assert points(file.config) == [
        {"workload.arrivals.rate": rate, "allocators.*.block_size": size} for rate in (1, 2) for size in (4, 8)
    ]
    config = at_point(file, points(file.config)[3])
    assert config.workload.arrivals is not None
    assert config.workload.arrivals.rate == 2
    assert [row.block_size for row in config.allocators.values()] == [8, 8]
    assert config.sweep == {}
    assert points(config) == [{}]
    assert at_point(file, {}).allocators == file.config.allocators


def test_a_wrong_point_names_the_place_in_the_sweep(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT + "sweep:\n  workload.arrivals.rate: [1, -1]\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines()[0] == (
        f"{path}:12:31: workload.arrivals.rate: must be above 0, is -1 (at the sweep point workload.arrivals.rate=-1)"
    )
    file = load(write(tmp_path, TEXT))
    with pytest.raises(ConfigError, match=r"scheduler\.max_num_seqs: must be at least 1, is 0 \(at the sweep point"):
        at_point(file, {"scheduler.max_num_seqs": 0})


def test_an_error_raised_elsewhere_gets_its_place(tmp_path: Path) -> None:
    path = write(tmp_path, TEXT)
    file = load(path)
    with pytest.raises(PluginError) as caught, file.locate("allocators", "max"):
        raise PluginError("reserve: 'maxi' is unknown; allowed: max, pow2, oracle")
    first, *_ = str(caught.value).splitlines()
    assert first == f"{path}:9:40: allocators.max.reserve: 'maxi' is unknown; allowed: max, pow2, oracle"
    for message, place in [
        ("model: hidden_size: too small", "2:8: model: hidden_size: too small"),
        ("allocators.max: policy: too slow", "9:19: allocators.max.policy: too slow"),
        ("workload.arrivals.rate: too high", "6:38: workload.arrivals.rate: too high"),
        ("too much: of everything", "2:8: model: too much: of everything"),
    ]:
        with pytest.raises(ConfigError) as elsewhere, file.locate("model"):
            raise ConfigError(message)
        assert str(elsewhere.value).startswith(f"{path}:{place}")
    with pytest.raises(ConfigError) as nowhere, file.locate():
        raise ConfigError("memory.fraction: too small")
    assert str(nowhere.value).startswith(f"{path}:1:1: memory.fraction: too small")
    with pytest.raises(ConfigError) as caught_again, file.locate("model"), file.locate("device"):
        raise ConfigError("unknown")
    assert str(caught_again.value).startswith(f"{path}:3:9: device: unknown"), "the innermost place counts"


def test_the_resolved_experiment_reads_as_people_write_it() -> None:
    data = base(memory={"kv_cache": "12 GiB", "host_kv_cache": 1000}, slo={"ttft": 2, "tpot": "123456 ps"})
    text = dump(from_dict(data).config)
    assert "kv_cache: 12 GiB" in text
    assert "host_kv_cache: 1000" in text
    assert "slo: {ttft: 2 s, tpot: 123456 ps}" in text


def test_files_named_by_the_experiment_are_found_from_elsewhere(tmp_path: Path) -> None:
    for name in ("mine.py", "deep/other.py", "config.json", "base"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = {"a": {"policy": "mine:A"}, "b": {"policy": "deep/other.py:B"}, "c": {"policy": "absent:C"}}
    data = base(allocators=rows, model="config.json", sweep={"allocators.a.policy": ["mine.py:A", "paged"]})
    config = from_dict(data, tmp_path).config
    moved = from_dict(yaml.safe_load(dump(config, tmp_path)), "/").config
    assert [row.policy for row in moved.allocators.values()] == [
        f"{tmp_path}/mine.py:A",
        f"{tmp_path}/deep/other.py:B",
        "absent:C",
    ]
    assert moved.model == f"{tmp_path}/config.json"
    assert moved.sweep == {"allocators.a.policy": [f"{tmp_path}/mine.py:A", "paged"]}
    assert (moved.name, moved.device) == ("base", "a100-40gb")


def test_an_option_that_is_null_survives_the_resolved_experiment(tmp_path: Path) -> None:
    config = from_dict(base(allocators__paged__limit=None)).config
    again = load(write(tmp_path, dump(config))).config
    assert again.allocators["paged"].options == {"limit": None}


@given(size=st.integers(0, 64 * 2**40), time=st.integers(0, 2**63 - 1))
def test_quantities_are_written_exactly(size: int, time: int) -> None:
    assert parse_bytes(write_bytes(size)) == size
    assert parse_time(write_time(time)) == time


words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False),
    words,
    st.sampled_from(["1e5", "no", ".5", "0o7", "~", "1:30", "<<", "="]),
)
options = st.dictionaries(
    st.text("abcdefgh_", min_size=3, max_size=8),
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(
    kv_cache=st.one_of(st.just("auto"), st.integers(1, 64 * 2**40)),
    horizon=st.none() | st.integers(1, 2**63 - 1).map(lambda ticks: f"{ticks} ps"),
    rate=st.floats(1e-9, 1e9),
    question=st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=30),
    row=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True).filter(
        lambda name: name.lower() not in ("ideal", "max")
    ),
    extra=options,
    seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True),
    rates=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3, unique=True),
    samples=st.integers(1, 256),
    baseline=st.booleans(),
)
def test_the_resolved_experiment_is_the_same_experiment(
    tmp_path_factory: pytest.TempPathFactory,
    kv_cache: str | int,
    horizon: str | None,
    rate: float,
    question: str,
    row: str,
    extra: dict[str, Any],
    seeds: list[int],
    rates: list[float],
    samples: int,
    baseline: bool,
) -> None:
    data = base(
        memory={"kv_cache": kv_cache},
        horizon=horizon,
        workload__arrivals={"process": "gamma", "rate": rate, "cv": 0.5},
        workload__sampling={"n": samples},
        question=question,
        allocators={"max": {"policy": "contiguous"}, row: {"policy": "m:C", **extra}},
        seeds=seeds,
        sweep={"workload.arrivals.rate": rates},
        baseline=row if baseline else None,
    )
    config = from_dict(data).config
    text = dump(config)
    again = load(write(tmp_path_factory.mktemp("dump"), text)).config
    assert again == config
    assert dump(again) == text


@settings(max_examples=150, deadline=None)
@given(
    at=st.integers(0, len(TEXT)),
    removed=st.integers(0, 12),
    inserted=st.text(st.sampled_from(" \n\t:{}[],&*!#|>-?'\"%@`~=<.01eExaé\u2028\x85\\"), max_size=4),
)
def test_whatever_is_in_a_file_only_a_config_error_comes_of_it(
    tmp_path_factory: pytest.TempPathFactory, at: int, removed: int, inserted: str
) -> None:
    path = write(tmp_path_factory.mktemp("any"), TEXT[:at] + inserted + TEXT[at + removed :])
    message = ""
    try:
        file = load(path)
    except ConfigError as error:
        message = str(error)
    if message:
        assert message.startswith(f"{path}:")
    else:
        assert from_dict(file.document.data).config == file.config


@pytest.mark.parametrize("value", [b"bytes", object(), {1, 2}])
def test_data_that_yaml_has_no_form_for(value: object) -> None:
    expected = "allocators.paged.extra[1]: must be text, a number, true or false, a list or a mapping, is "
    assert problems(base(allocators__paged__extra=[1, value]))[0].startswith(expected)


def test_data_of_other_kinds_is_taken_as_yaml_would_give_it() -> None:
    extra = {"path": Path("a/b"), "number": np.int64(3), 5: (1, np.float64(0.5))}
    options = from_dict(base(allocators__paged__extra=extra)).config.allocators["paged"].options
    assert options == {"extra": {"path": "a/b", "number": 3, "5": [1, 0.5]}}


def test_data_that_holds_itself() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    assert problems(base(model=loop)) == ["model.again.again: is nested too deeply"]


def test_the_schema_describes_every_key() -> None:
    document = schema()
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    undescribed = [
        f"{name}.{key}"
        for name, part in [("ExperimentConfig", document), *document["$defs"].items()]
        for key, value in part["properties"].items()
        if len(value.get("description", "")) < 10 and "$ref" not in value
    ]
    assert undescribed == []
    assert document["additionalProperties"] is False
    assert document["required"] == ["name", "model", "device", "workload", "allocators"]
    names = document["$defs"]["SchedulerConfig"]["properties"]["policy"]["anyOf"][0]["enum"]
    assert names == ["chunked", "mixed", "prefill_first", "static"]


def test_an_experiment_is_frozen() -> None:
    config = ExperimentConfig.model_validate(BASE)
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"
