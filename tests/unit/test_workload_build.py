"""Workloads from configurations: independent streams, stable prefixes, digests, users' own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagesim.config import WorkloadConfig
from pagesim.errors import ConfigError, PluginError, TraceError
from pagesim.units import TICKS_PER_SECOND
from pagesim.workload import Chunk, ClosedLoop, Workload, build_workload, stream

BASE: dict[str, Any] = {
    "num_requests": 500,
    "arrivals": {"process": "poisson", "rate": 2.0},
    "lengths": {"dataset": "sharegpt"},
}


def workload(base_dir: Path = Path(), seed: int = 0, **changes: Any) -> Workload:
    return build_workload(WorkloadConfig.model_validate(BASE | changes), seed, base_dir)


def build(base_dir: Path = Path(), seed: int = 0, **changes: Any) -> Chunk:
    """Return all requests at once."""
    return workload(base_dir, seed, **changes).whole()


def test_the_same_seed_gives_the_same_workload() -> None:
    """INV-6, as far as the workload goes."""
    first, second = workload(), workload()
    assert first.digest == second.digest
    assert np.array_equal(build().prompt_tokens, build().prompt_tokens)
    assert workload(seed=1).digest != first.digest


def test_arrays_cannot_be_written() -> None:
    for array in build(prefix={"num_groups": 2, "tokens": 5}).columns().values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_rate_changes_nothing_but_arrivals() -> None:
    slow, fast = build(), build(arrivals={"process": "poisson", "rate": 20.0})
    assert slow.arrivals is not None
    assert fast.arrivals is not None
    assert np.array_equal(slow.prompt_tokens, fast.prompt_tokens)
    assert np.array_equal(slow.output_tokens, fast.output_tokens)
    assert slow.arrivals[-1] > 9 * fast.arrivals[-1]
    assert workload().digest != workload(arrivals={"process": "poisson", "rate": 20.0}).digest


def test_every_purpose_has_a_stream_of_its_own() -> None:
    plain = build()
    rich = build(prefix={"num_groups": 3, "tokens": 40}, estimate={"cv": 0.5})
    assert np.array_equal(rich.prompt_tokens, plain.prompt_tokens + 40)
    assert np.array_equal(rich.output_tokens, plain.output_tokens)
    assert np.array_equal(rich.arrivals, plain.arrivals)  # type: ignore[arg-type]  # an open workload has them
    other_prompts = build(
        lengths={
            "prompt": {"distribution": "constant", "value": 5},
            "output": {"distribution": "gamma", "mean": 100, "cv": 1},
        }
    )
    other_outputs = build(
        lengths={
            "prompt": {"distribution": "lognormal", "mean": 70, "cv": 2},
            "output": {"distribution": "gamma", "mean": 100, "cv": 1},
        }
    )
    assert np.array_equal(other_prompts.output_tokens, other_outputs.output_tokens)


def test_streams_differ_by_name_and_seed_and_start_anew() -> None:
    draws = {
        (seed, name): stream(seed, name).integers(0, 2**62)
        for seed in (0, 1, 2**63 - 1)
        for name in ("arrivals", "prompts", "outputs", "estimates", "prefixes", "beams", "think")
    }
    assert len(set(draws.values())) == len(draws)
    assert stream(1, "beams").integers(0, 2**62) == draws[1, "beams"]


def test_streams_do_not_change_between_versions() -> None:
    """Golden: published seeds would otherwise stand for other workloads."""
    assert stream(0, "arrivals").integers(0, 1000, 4).tolist() == [102, 972, 684, 831]
    assert stream(7, "prompts").integers(0, 1000, 4).tolist() == [669, 750, 641, 117]


def test_estimates_are_the_truth_or_scatter_around_it() -> None:
    exact = build()
    assert np.array_equal(exact.estimates, exact.output_tokens)
    noisy = build(num_requests=50_000, estimate={"cv": 0.3})
    ratio = noisy.estimates / noisy.output_tokens
    long = noisy.output_tokens > 100
    assert ratio[long].mean() == pytest.approx(1, rel=0.01)
    assert ratio[long].std() == pytest.approx(0.3, rel=0.03)
    assert noisy.estimates.min() == 1


def test_prefix_groups_are_equally_likely() -> None:
    requests = build(num_requests=30_000, prefix={"num_groups": 3, "tokens": 40})
    assert requests.prefix_groups is not None
    assert workload(prefix={"num_groups": 3, "tokens": 40}).prefix_tokens == 40
    assert requests.prompt_tokens.min() == 41
    assert np.bincount(requests.prefix_groups) / 30_000 == pytest.approx(np.full(3, 1 / 3), abs=0.01)
    assert (build().prefix_groups, workload().prefix_tokens) == (None, 0)


def test_a_closed_loop_has_clients_instead_of_arrivals() -> None:
    four = workload(arrivals={"process": "closed_loop", "num_clients": 4, "think_time": "2 s"})
    requests = four.whole()
    assert (four.num_clients, four.is_closed, four.arrival_marks, requests.arrivals) == (4, True, None, None)
    assert requests.think_times is not None
    assert set(requests.think_times) == {2 * TICKS_PER_SECOND}
    five = workload(arrivals={"process": "closed_loop", "num_clients": 5, "think_time": "2 s"})
    assert four.digest != five.digest
    assert np.array_equal(requests.output_tokens, build().output_tokens)


def test_a_workload_has_arrivals_or_clients_of_one_length() -> None:
    lengths = np.array([1, 2])
    with pytest.raises(ValueError, match="either arrivals or a closed loop"):
        Workload.of_arrays("x", lengths, lengths, lengths)
    with pytest.raises(ValueError, match=r"arrivals: must be int64 of shape \(2,\), is int64 \(3,\)"):
        Workload.of_arrays("x", lengths, lengths, lengths, arrivals=np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="think_times: must be int64"):
        Workload.of_arrays("x", lengths, lengths, lengths, closed_loop=ClosedLoop(1, np.array([0.5, 1])))


def test_the_digest_is_of_the_requests_alone() -> None:
    lengths = np.array([1, 2])
    first = Workload.of_arrays("x", lengths, lengths, lengths, arrivals=lengths)
    assert first.digest == Workload.of_arrays("y", lengths, lengths, lengths, arrivals=lengths).digest
    assert first.digest != Workload.of_arrays("x", lengths, lengths, np.array([1, 3]), arrivals=lengths).digest
    assert first.digest != Workload.of_arrays("x", lengths, lengths, lengths, arrivals=lengths, prefix_tokens=1).digest


TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,1\n1.5,20,2\n1.5,30,3\n"
LENGTHS_ONLY = "num_prefill_tokens,num_decode_tokens\n10,1\n20,2\n"


def from_trace(folder: Path, text: str, seed: int = 0, **changes: Any) -> Workload:
    (folder / "trace.csv").write_text(text)
    trace = {"path": "trace.csv", "format": "vidur"}
    return build_workload(WorkloadConfig.model_validate({"trace": trace} | changes), seed, folder)


def test_a_trace_gives_lengths_and_arrivals(tmp_path: Path) -> None:
    found = from_trace(tmp_path, TRACE)
    requests = found.whole()
    assert requests.arrivals is not None
    assert requests.arrivals.tolist() == [0, 1_500 * 10**9, 1_500 * 10**9]
    assert (requests.prompt_tokens.tolist(), requests.output_tokens.tolist()) == ([10, 20, 30], [1, 2, 3])
    assert (found.name, len(found), found.skipped_rows) == ("trace.csv", 3, 0)
    assert found.digest == from_trace(tmp_path, TRACE, seed=9, arrivals={"process": "trace"}).digest


def test_a_trace_may_have_synthetic_arrivals(tmp_path: Path) -> None:
    requests = from_trace(tmp_path, TRACE, arrivals={"process": "constant", "rate": 1.0}).whole()
    assert requests.arrivals is not None
    assert requests.arrivals.tolist() == [TICKS_PER_SECOND, 2 * TICKS_PER_SECOND, 3 * TICKS_PER_SECOND]
    assert requests.prompt_tokens.tolist() == [10, 20, 30]
    closed = from_trace(tmp_path, LENGTHS_ONLY, arrivals={"process": "closed_loop", "num_clients": 1})
    think_times = closed.whole().think_times
    assert think_times is not None
    assert think_times.tolist() == [0, 0]


def test_a_trace_without_times_needs_an_arrival_process(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"trace.csv: has no arrival times; give workload.arrivals, such as \{process"):
        from_trace(tmp_path, LENGTHS_ONLY)


def test_a_trace_read_twice_stays_what_it_was(tmp_path: Path) -> None:
    """The second run must see the file, not what an earlier run has made of it."""
    first = from_trace(tmp_path, TRACE, prefix={"num_groups": 1, "tokens": 100})
    assert first.whole().prompt_tokens.tolist() == [110, 120, 130]
    assert from_trace(tmp_path, TRACE).whole().prompt_tokens.tolist() == [10, 20, 30]
    assert from_trace(tmp_path, TRACE + "2.0,40,4\n").whole().prompt_tokens.tolist() == [10, 20, 30, 40]


PLUGINS = """
import numpy as np
from pagesim.workload import ClosedLoop
from pagesim.workload.arrivals import Poisson
from pagesim.workload.lengths import Uniform

class Pairs:
    def __init__(self, rate):
        self.rate = rate
    def sample(self, count, rng):
        return (np.arange(count) // 2) * int(1e12 / self.rate)

class Doubled:
    def __init__(self, recorded):
        self.recorded = recorded
    def sample(self, count, rng):
        return self.recorded * 2

class Thinkers:
    def __init__(self, num_clients):
        self.num_clients = num_clients
    def clients(self, count, rng):
        return ClosedLoop(self.num_clients, rng.integers(0, 10, count))

class Even:
    def __init__(self, value, step=2):
        self.value, self.step = value, step
    def sample(self, count, rng):
        return self.value + self.step * np.arange(count)

class Fractions:
    def sample(self, count, rng):
        return np.full(count, 0.5)

class Zeros:
    def sample(self, count, rng):
        return [0] * count

class Short:
    def sample(self, count, rng):
        return [1]

class Backwards:
    def sample(self, count, rng):
        return np.arange(count)[::-1]

class Raises:
    def sample(self, count, rng):
        raise KeyError("oh")

class Silent:
    pass

class Bursts:
    def sample(self, count, rng):
        raise AssertionError("it draws gaps")
    def gaps(self, count, rng):
        return rng.random(count)

class Words:
    def sample(self, count, rng):
        return np.arange(count)

    def gaps(self, count, rng):
        return ["a"] * count


class Mixed:
    def sample(self, count, rng):
        return np.arange(count)

    def gaps(self, count, rng):
        fast = rng.random(count) < 0.5
        return np.where(fast, 0.1, 1.0) * rng.exponential(size=count)


class Shuffled:
    in_chunks = True

    def sample(self, count, rng):
        return rng.permutation(count) + 1


class Ragged:
    def sample(self, count, rng):
        return [[1, 2], [3]] * (count // 2)


class Unsteady(Bursts):
    def gaps(self, count, rng):
        return rng.random(count) - 0.5

class Slowed(Poisson):
    def sample(self, count, rng):
        return np.arange(count) * 10

class Dice:
    in_chunks = True
    def sample(self, count, rng):
        assert count <= 8192
        return rng.integers(1, 7, count)

class Sorted(Uniform):
    def sample(self, count, rng):
        return np.sort(super().sample(count, rng))

class Negative:
    def clients(self, count, rng):
        return ClosedLoop(2, np.full(count, -1))

class Nobody:
    def clients(self, count, rng):
        return 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PLUGINS)
    return tmp_path


def lengths(distribution: str, **keys: Any) -> dict[str, Any]:
    return {
        "prompt": {"distribution": distribution, **keys},
        "output": {"distribution": "constant", "value": 3},
    }


def test_users_plug_their_own_arrivals_in(mine: Path) -> None:
    requests = build(mine, num_requests=4, arrivals={"process": "mine:Pairs", "rate": 2.0})
    assert requests.arrivals is not None
    assert requests.arrivals.tolist() == [0, 0, TICKS_PER_SECOND // 2, TICKS_PER_SECOND // 2]
    recorded = from_trace(mine, TRACE, arrivals={"process": "mine:Doubled"}).whole()
    assert recorded.arrivals is not None
    assert recorded.arrivals.tolist() == [0, 3 * TICKS_PER_SECOND, 3 * TICKS_PER_SECOND]
    closed = workload(mine, arrivals={"process": "mine:Thinkers", "num_clients": 3})
    think_times = closed.whole().think_times
    assert think_times is not None
    assert (closed.num_clients, set(think_times.tolist())) == (3, set(range(10)))


def test_users_plug_their_own_lengths_in(mine: Path) -> None:
    requests = build(mine, num_requests=3, lengths=lengths("mine:Even", value=10, options={"step": 4}))
    assert requests.prompt_tokens.tolist() == [10, 14, 18]
    assert requests.output_tokens.tolist() == [3, 3, 3]


def test_users_may_be_asked_for_some_requests_at_a_time(mine: Path) -> None:
    made = workload(mine, num_requests=20_000, arrivals={"process": "mine:Bursts"}, lengths=lengths("mine:Dice"))
    prompts = np.concatenate([chunk.prompt_tokens for chunk in made.chunks()])
    assert set(prompts.tolist()) == set(range(1, 7))
    arrivals = np.concatenate([chunk.arrivals for chunk in made.chunks() if chunk.arrivals is not None])
    assert (arrivals == np.cumsum(np.rint(stream(0, "arrivals").random(20_000) * 1e12).astype(np.int64))).all()
    assert made.arrival_marks == (arrivals[0], arrivals[1999], arrivals[-1])


def test_a_subclass_that_samples_otherwise_is_asked_once(mine: Path) -> None:
    made = workload(
        mine,
        num_requests=20_000,
        arrivals={"process": "mine:Slowed", "rate": 1.0},
        lengths=lengths("mine:Sorted", low=1, high=1000),
    )
    chunks = list(made.chunks(100))
    assert (np.diff(np.concatenate([chunk.prompt_tokens for chunk in chunks])) >= 0).all()
    assert made.arrival_marks == (0, 19_990, 199_990)


def test_quantiles_are_given_as_options() -> None:
    requests = build(lengths=lengths("quantiles", options={"quantiles": [5, 5, 9]}))
    assert set(requests.prompt_tokens) == {5, 6, 7, 8, 9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": lengths("mine:Fractions")}, "Fractions.sample: must be 500 whole numbers, is float64"),
        ({"lengths": lengths("mine:Zeros")}, "Zeros.sample: lengths must be from 1 to 1000000000, are from 0 to 0"),
        ({"lengths": lengths("mine:Short")}, r"Short.sample: must be 500 whole numbers, is int64 of shape \(1,\)"),
        ({"lengths": lengths("mine:Raises")}, "Raises.sample raises: KeyError: 'oh'"),
        ({"lengths": lengths("mine:Even", mean=3)}, "takes no 'mean'"),
        ({"lengths": lengths("quantiles")}, "Quantiles needs quantiles, which is not given"),
        ({"arrivals": {"process": "mine:Backwards"}}, "arrivals must be ticks from 0 that do not decrease"),
        ({"arrivals": {"process": "mine:Unsteady"}}, "Unsteady.gaps: must be 500 numbers of seconds from 0"),
        ({"arrivals": {"process": "mine:Words"}}, "Words.gaps: must be numbers of seconds: could not convert"),
        ({"arrivals": {"process": "mine:Mixed"}}, "Mixed.gaps: is drawn in chunks, but 23 and then 41"),
        ({"lengths": lengths("mine:Shuffled")}, "Shuffled.sample: is drawn in chunks, but 23 and then 41"),
        ({"lengths": lengths("mine:Ragged")}, "Ragged.sample: must be 500 whole numbers: setting an array"),
        ({"arrivals": {"process": "mine:Silent"}}, "Silent has neither sample nor clients"),
        ({"arrivals": {"process": "mine:Negative"}}, "think_times must be ticks from 0"),
        ({"arrivals": {"process": "mine:Nobody"}}, "must return a pagesim.workload.ClosedLoop"),
        ({"arrivals": {"process": "mine:Doubled"}}, "Doubled needs recorded, which is not given"),
        ({"arrivals": {"process": "mine:Pears", "rate": 1.0}}, "no 'Pears'; did you mean 'Pairs'"),
    ],
)
def test_a_plug_in_that_answers_nonsense_is_refused(mine: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        build(mine, **changes)


def test_values_that_make_no_workload_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown dataset 'sharegtp'; did you mean 'sharegpt'"):
        build(lengths={"dataset": "sharegtp"})
    with pytest.raises(ConfigError, match="the longest time that can be simulated is 106 days"):
        build(arrivals={"process": "constant", "rate": 1e-9})
