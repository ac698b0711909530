"""Workloads that systems choke on: overload, a pool of one block, all at once, one token, many rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.experiments import check_account, run, written

BLOCK = 16 * 819_200
"""Bytes of one block of 16 tokens of OPT-13B."""

SCHEDULERS = ["chunked", "mixed", "prefill_first", "static"]


def experiment(
    folder: Path, *, scheduler: str = "chunked", kv_cache: int = 64 * BLOCK, workload: str, allocators: str = ""
) -> Path:
    rows = allocators or "{max: {policy: contiguous}, paged: {policy: paged}, cow: {policy: copy_on_write}}"
    return written(
        folder,
        f"""\
name: hard
model: opt-13b
device: a100-40gb
memory: {{kv_cache: {kv_cache}}}
workload: {workload}
scheduler: {{policy: {scheduler}, max_num_seqs: 64, max_num_batched_tokens: 512, max_model_len: 512}}
allocators: {rows}
""",
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_overload_ends(scheduler: str, tmp_path: Path) -> None:
    workload = """
  num_requests: 250
  arrivals: {process: poisson, rate: 500}
  lengths: {prompt: {distribution: uniform, low: 1, high: 200}, output: {distribution: uniform, low: 1, high: 200}}
"""
    finished = run(experiment(tmp_path, scheduler=scheduler, workload=workload), tmp_path / "out")
    check_account(finished)
    rows = finished.rows()
    assert (rows["finished"] == 250).all()
    assert rows["overloaded"].all()
    if scheduler != "static":  # its first batch, the request that came first, outlasts the arrivals
        assert (rows["limited_by"] == "memory").all()
    assert rows.preemptions_recompute["max"] == 0
    assert rows.preemptions_recompute["paged"] > 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_pool_of_one_block(scheduler: str, tmp_path: Path) -> None:
    """16 slots hold a request of 17 tokens, whose last one is never stored; longer ones are refused."""
    workload = """
  num_requests: 60
  arrivals: {process: poisson, rate: 100}
  lengths: {prompt: {distribution: uniform, low: 1, high: 12}, output: {distribution: uniform, low: 1, high: 12}}
"""
    finished = run(experiment(tmp_path, scheduler=scheduler, kv_cache=BLOCK, workload=workload), tmp_path / "out")
    check_account(finished)
    rows = finished.rows()
    assert rows.refused["max"] == 60, "a reservation of max_model_len never fits"
    for name in ("paged", "cow", "ideal"):
        requests = finished.requests(f"{name}-seed0")
        fits = requests["prompt_tokens"] + requests["output_tokens"] <= 17
        assert 0 < fits.sum() < 60
        assert (requests["status"] == "finished").equals(fits), name
        assert requests.loc[~fits, "reason"].str.startswith("outgrew the pool").all(), name
    assert rows.peak_batched_requests["paged"] == 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_token_outputs_all_at_once(scheduler: str, tmp_path: Path) -> None:
    """Every request arrives at the same tick and ends with its prefill."""
    trace = tmp_path / "burst.csv"
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens", *["0.0,100,1"] * 100]
    trace.write_text("\n".join(lines) + "\n")
    file = experiment(tmp_path, scheduler=scheduler, workload="{trace: {path: burst.csv, format: vidur}}")
    finished = run(file, tmp_path / "out")
    check_account(finished)
    rows = finished.rows()
    assert (rows["finished"] == 100).all()
    assert rows["tpot_mean_s"].isna().all(), "one token has no time between tokens"
    for name in rows.index:
        requests = finished.requests(f"{name}-seed0")
        assert requests["ttft_s"].is_monotonic_increasing, "first come, first served, in file order"
        assert (requests["ttft_s"] == requests["e2e_s"]).all()


def test_a_trace_of_a_hundred_thousand_rows(tmp_path: Path) -> None:
    """Every row is read, served and written, in order, in memory that does not grow with the iterations."""
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(1 / 200, 100_000))
    prompts, outputs = rng.integers(1, 100, 100_000), rng.integers(1, 5, 100_000)
    lines = ["arrived_at,num_prefill_tokens,num_decode_tokens"]
    lines += [f"{at:.6f},{p},{o}" for at, p, o in zip(arrivals, prompts, outputs, strict=True)]
    (tmp_path / "long.csv").write_text("\n".join(lines) + "\n")
    file = experiment(
        tmp_path,
        kv_cache=1000 * BLOCK,
        workload="{trace: {path: long.csv, format: vidur}}",
        allocators="{paged: {policy: paged}}",
    )
    file.write_text(file.read_text().replace("opt-13b", "opt-125m") + "ideal: false\n")
    finished = run(file, tmp_path / "out")
    check_account(finished)
    requests = finished.requests("paged-seed0")
    assert (requests["prompt_tokens"].to_numpy() == prompts).all()
    assert (requests["output_tokens"].to_numpy() == outputs).all()
    assert np.abs(requests["arrival_s"].to_numpy() - arrivals).max() < 2e-6
    assert (finished.summary["finished"] == 100_000).all()
    assert len(finished.timeline("paged-seed0")) <= 1000
