"""Laws of workloads: a longer one starts with the shorter one, and readers give back what was written."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import itertools
import json
import math
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pagesim import catalog
from pagesim.config import TraceConfig, WorkloadConfig
from pagesim.errors import TraceError
from pagesim.workload import Chunk, Workload, access, build_workload
from pagesim.workload.traces import TraceRows, read_trace

CVS = st.floats(0.01, 5)
LENGTHS = st.one_of(
    st.fixed_dictionaries(
        {"distribution": st.sampled_from(["lognormal", "gamma"]), "mean": st.floats(1, 1e5), "cv": CVS}
    ),
    st.just({"distribution": "uniform", "low": 3, "high": 77}),
    st.just({"distribution": "constant", "value": 8}),
    st.just({"distribution": "quantiles", "options": {"quantiles": [1, 5, 5, 90]}}),
)
SOURCES = st.one_of(
    st.builds(lambda name: {"dataset": name}, st.sampled_from([entry.name for entry in catalog.lengths()])),
    st.fixed_dictionaries({"prompt": LENGTHS, "output": LENGTHS}),
)
ARRIVALS = st.one_of(
    st.fixed_dictionaries({"process": st.sampled_from(["poisson", "constant"]), "rate": st.floats(0.01, 1e6)}),
    st.fixed_dictionaries({"process": st.just("gamma"), "rate": st.floats(0.01, 1e6), "cv": CVS}),
    st.just({"process": "closed_loop", "num_clients": 3, "think_time": "1 s"}),
)
CONFIGS = st.fixed_dictionaries(
    {
        "arrivals": ARRIVALS,
        "lengths": SOURCES,
        "estimate": st.fixed_dictionaries({"cv": st.sampled_from([0.0, 0.3, 2.0])}),
        "prefix": st.sampled_from([{"num_groups": 0, "tokens": 0}, {"num_groups": 3, "tokens": 9}]),
    }
)


@given(config=CONFIGS, sizes=st.tuples(st.integers(1, 300), st.integers(0, 6000)), seed=st.integers(0, 2**63 - 1))
def test_a_longer_workload_starts_with_the_shorter_one(
    config: dict[str, Any], sizes: tuple[int, int], seed: int
) -> None:
    count, more = sizes
    short, long = (
        build_workload(WorkloadConfig.model_validate(config | {"num_requests": number}), seed, Path())
        for number in (count, count + more)
    )
    assert (len(short), len(long)) == (count, count + more)
    few, many = short.whole(), long.whole()
    for first, second in zip(few.columns().values(), many.columns().values(), strict=True):
        assert np.array_equal(first, second[:count])
    for tokens in (many.prompt_tokens, many.output_tokens, many.estimates):
        assert tokens.min() >= 1
    if many.arrivals is not None:
        assert many.arrivals[0] >= 0
        assert (np.diff(many.arrivals) >= 0).all()


GOLDEN_DIGESTS = [
    "8f7228ea6b16172da7e686610d505b0985af31eb301acbacd59f2fd69a50e279",
    "7a0ab976aa43523708f3adac06939b15543a584429ca516b45e9a48d931ddadd",
]
SAMPLING = st.sampled_from([{"n": 1}, {"n": 4, "lengths": "shared"}, {"n": 3, "lengths": "independent"}])


@given(
    config=CONFIGS,
    sampling=SAMPLING,
    count=st.integers(1, 9000),
    sizes=st.tuples(st.integers(1, 5000), st.integers(1, 9000)),
    seed=st.integers(0, 2**63 - 1),
)
def test_chunks_of_any_size_are_the_whole(
    config: dict[str, Any], sampling: dict[str, Any], count: int, sizes: tuple[int, int], seed: int
) -> None:
    """And so are the digest and the instants that are known before the run."""
    made = build_workload(
        WorkloadConfig.model_validate(config | {"num_requests": count, "sampling": sampling}), seed, Path()
    )
    whole = made.whole()
    for size in sizes:
        chunks = list(made.chunks(size))
        assert [chunk.first for chunk in chunks] == list(range(0, count, size))
        assert all(len(chunk) == size for chunk in chunks[:-1])
        for name, column in whole.columns().items():
            assert np.array_equal(np.concatenate([chunk.columns()[name] for chunk in chunks]), column), name
    assert made.digest == digest_of_arrays(made, whole)
    if whole.arrivals is not None:
        tenth = math.ceil(0.1 * count) - 1
        assert made.arrival_marks == (whole.arrivals[0], whole.arrivals[tenth], whole.arrivals[-1])


@given(
    config=CONFIGS,
    sampling=SAMPLING,
    size=st.integers(1, 50),
    asked=st.lists(st.integers(0, 499), min_size=1, max_size=40),
)
def test_any_request_can_be_had(config: dict[str, Any], sampling: dict[str, Any], size: int, asked: list[int]) -> None:
    made = build_workload(
        WorkloadConfig.model_validate(config | {"num_requests": 500, "sampling": sampling}), 1, Path()
    )
    whole = made.whole()
    with patch.object(access, "SIZE", size):
        chunks = access.Access(made)
        for request in asked:
            chunk = chunks[request]
            for name, column in chunk.columns().items():
                assert np.array_equal(column[request - chunk.first], whole.columns()[name][request]), name
        for request in (-1, 500):
            with pytest.raises(IndexError, match="requests 0 to 499"):
                chunks[request]


def digest_of_arrays(workload: Workload, whole: Chunk) -> str:
    """Return the digest by its definition: a header, then column after column."""
    digest = hashlib.sha256(f"{len(workload)} {workload.num_clients} {workload.prefix_tokens}".encode())
    names = ("prompt_tokens", "output_tokens", "estimates", "arrivals", "think_times", "prefix_groups")
    for name in (*names, "sample_output_tokens"):
        column = getattr(whole, name)
        if column is not None:
            digest.update(name.encode() + column.astype("<i8").tobytes())
    return digest.hexdigest()


def test_digests_do_not_change_between_versions() -> None:
    """Golden: `compare` holds results against those of earlier versions by them."""
    plain = {"arrivals": {"process": "poisson", "rate": 2.0}, "lengths": {"dataset": "sharegpt"}, "num_requests": 5000}
    rich = plain | {
        "arrivals": {"process": "closed_loop", "num_clients": 3, "think_time": "1 s"},
        "estimate": {"cv": 0.3},
        "prefix": {"num_groups": 3, "tokens": 9},
        "sampling": {"n": 3, "lengths": "independent"},
    }
    digests = [build_workload(WorkloadConfig.model_validate(config), 7, Path()).digest for config in (plain, rich)]
    assert digests == GOLDEN_DIGESTS


TOKENS = st.integers(1, 10**6)
ROWS = st.lists(st.tuples(st.integers(0, 10**12), TOKENS, TOKENS), min_size=1, max_size=20)
"""Gaps in units of 100 ns, prompt and output lengths."""


def read(name: str, data: bytes, layout: str, **keys: Any) -> TraceRows:
    with TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        return read_trace(TraceConfig.model_validate({"path": name, "format": layout} | keys), Path(folder))


def times(rows: list[tuple[int, int, int]]) -> list[int]:
    return list(itertools.accumulate([0, *(row[0] for row in rows[1:])]))


def lengths(rows: TraceRows) -> list[tuple[int, int]]:
    return list(zip(rows.prompt_tokens.tolist(), rows.output_tokens.tolist(), strict=True))


@given(rows=ROWS, start=st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1)))
def test_azure_times_come_back_exactly(rows: list[tuple[int, int, int]], start: datetime.datetime) -> None:
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for tick, (_, prompt, output) in zip(times(rows), rows, strict=True):
        micros, tenth = divmod(tick, 10)
        at = start + datetime.timedelta(microseconds=micros)
        lines.append(f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond:06d}{tenth},{prompt},{output}")
    found = read("t.csv.gz", gzip.compress("\r\n".join(lines).encode()), "azure")
    assert found.arrivals is not None
    assert found.arrivals.tolist() == [tick * 100_000 for tick in times(rows)]
    assert lengths(found) == [row[1:] for row in rows]


@given(rows=ROWS)
def test_vidur_times_come_back_to_the_microsecond(rows: list[tuple[int, int, int]]) -> None:
    """A float holds a microsecond in a day exactly enough to be rounded back to it."""
    micros = [tick // 1000 for tick in times(rows)]
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    lines += [f"{tick / 1e6!r},{prompt},{output}" for tick, (_, prompt, output) in zip(micros, rows, strict=True)]
    found = read("t.csv.zst", zstandard.compress("\n".join(lines).encode()), "vidur")
    assert found.arrivals is not None
    assert found.arrivals.tolist() == [tick * 10**6 for tick in micros]
    assert lengths(found) == [row[1:] for row in rows]


@given(rows=ROWS, scale=st.sampled_from(["0.1", "0.5", "1.0", "3.0", "7.25"]), limit=st.integers(1, 20))
def test_limit_and_rate_scale_are_exact(rows: list[tuple[int, int, int]], scale: str, limit: int) -> None:
    millis = [tick // 10**5 for tick in times(rows)]
    text = "".join(
        json.dumps({"timestamp": tick, "input_length": prompt, "output_length": output}) + "\n"
        for tick, (_, prompt, output) in zip(millis, rows, strict=True)
    )
    found = read("t.jsonl", text.encode(), "mooncake", limit=limit, rate_scale=float(scale))
    assert found.arrivals is not None
    assert len(found) == min(limit, len(rows))
    for tick, arrival in zip(millis, found.arrivals.tolist(), strict=False):
        assert abs(Decimal(tick * 10**9) / Decimal(scale) - arrival) <= Decimal("0.5")


@given(data=st.binary(max_size=200), layout=st.sampled_from(["azure", "mooncake", "vidur", "burstgpt"]))
def test_rubbish_is_an_error_of_one_line(data: bytes, layout: str) -> None:
    for name, content in (("t.csv", data), ("t.csv.gz", data), ("t.csv.zst", data), ("u.csv.gz", gzip.compress(data))):
        with pytest.raises(TraceError) as caught:
            read(name, content, layout)
        assert "\n" not in str(caught.value)


@given(rows=ROWS, cut=st.integers(1, 30), compression=st.sampled_from(["gz", "zst"]))
def test_a_truncated_file_is_never_taken_for_a_whole_one(
    rows: list[tuple[int, int, int]], cut: int, compression: str
) -> None:
    text = "num_prefill_tokens,num_decode_tokens\n" + "".join(f"{row[1]},{row[2]}\n" for row in rows)
    whole = (gzip.compress if compression == "gz" else zstandard.compress)(text.encode())
    with pytest.raises(TraceError, match=r"ends early|damaged"):
        read(f"t.csv.{compression}", whole[: -min(cut, len(whole) - 1)], "vidur")
