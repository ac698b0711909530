"""Results folders that look like those of real experiments, made from a small fluid model of a server.

For the tests of what reads results: no simulation is needed to make them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pagesim.results import Results, ResultsWriter

RATE = "workload.arrivals.rate"
BLOCK_SIZE = "allocators.*.block_size"
NUM_BINS = 200


@dataclass(frozen=True)
class Policy:
    """How one row behaves: requests that fit, and shares of the memory that they fill."""

    policy: str
    capacity: float
    live: float
    reserved: float
    internal: float
    oracle: bool = False
    saves: float = 0.0
    copies: int = 0


POLICIES = {
    "max": Policy("contiguous", 7.0, 0.204, 0.133, 0.573),
    "pow2": Policy("contiguous", 9.8, 0.268, 0.179, 0.136),
    "oracle": Policy("contiguous", 13.6, 0.382, 0.252, 0.0, oracle=True),
    "paged": Policy("paged", 31.0, 0.963, 0.0, 0.017),
    "ideal": Policy("ideal", 32.5, 1.0, 0.0, 0.0, oracle=True),
    "cow": Policy("copy_on_write", 31.5, 0.972, 0.0, 0.011, saves=0.212, copies=12_345),
}
PLAIN = tuple(name for name in POLICIES if name != "cow")
"""The rows of an experiment without sharing."""

TIMES = ("weights", "attention", "prefill", "recompute", "copies", "swaps", "overhead", "idle")


def write(
    out: Path,
    *,
    name: str = "synthetic",
    rows: Sequence[str] = PLAIN,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] = (0,),
    num_requests: int = 400,
    fail: str | None = None,
    refuse: Mapping[str, int] | None = None,
    digest: str = "d",
    speed: float = 1.0,
) -> Results:
    """Write a results folder and return it.

    Args:
        out: the folder.
        name: of the experiment.
        rows: names of ``POLICIES``.
        sweep: dotted key -> values; RATE and BLOCK_SIZE have an effect.
        seeds: one run each.
        num_requests: of each run.
        fail: the name of a run that fails.
        refuse: row -> how many of its first requests are refused.
        digest: what digests of the workload begin with.
        speed: how much faster the server is.
    """
    sweep = dict(sweep or {})
    points = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    config = {
        "name": name,
        "question": "How much KV cache memory does each allocator waste on chat traffic?",
        "model": "opt-13b",
        "device": "a100-40gb",
        "memory": {"kv_cache": "12 GiB"},
        "workload": {
            "num_requests": num_requests,
            "arrivals": {"process": "poisson", "rate": 1.0},
            "lengths": {"dataset": "sharegpt"},
        },
        "allocators": {row: {"policy": POLICIES[row].policy} for row in rows if row != "ideal"},
        "sweep": sweep,
        "seeds": list(seeds),
        "measure": {"window": "steady"},
        "ideal": "ideal" in rows,
    }
    plan = [
        ("-".join([row, *(f"{key.rsplit('.', 1)[-1]}{value}" for key, value in point.items()), f"seed{seed}"]), row, s)
        for point in points
        for row in rows
        for seed in seeds
        for s in [(point, seed)]
    ]
    writer = ResultsWriter.create(
        name,
        config_text=yaml.safe_dump(config, sort_keys=False),
        config_hash="0123abcd",
        out=out,
        runs=[run for run, _, _ in plan],
        manifest={"command": f"pagesim run {name}.yaml", "seeds": list(seeds)},
    )
    for run, row, (point, seed) in plan:
        if run == fail:
            writer.fail_run(run, "the policy raised ZeroDivisionError (mine.py:7)")
            continue
        summary, requests, timeline = simulate(row, point, seed, num_requests, (refuse or {}).get(row, 0), speed)
        writer.write_run(run, summary, requests, timeline, info={"workload_digest": f"{digest}{point}{seed}"})
    return writer.finish()


def simulate(
    row: str, point: Mapping[str, Any], seed: int, num_requests: int, num_refused: int, speed: float
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the summary, the requests and the timeline of one run."""
    policy = POLICIES[row]
    random = np.random.default_rng([seed, 1])
    rate = float(point.get(RATE, 1.0))
    block_size = int(point.get(BLOCK_SIZE, 16))
    tail = 0.0005 * block_size if policy.policy == "paged" else 0.0
    slowness = 1 + 1.5 / block_size if policy.policy == "paged" else 1.0
    capacity = policy.capacity * (1 - tail)

    arrival = np.cumsum(random.exponential(1 / rate, num_requests))
    prompt = np.minimum(1 + random.lognormal(4.2, 1.3, num_requests), 1500).astype(np.int64)
    output = np.minimum(1 + random.gamma(1.3, 264.0, num_requests), 500).astype(np.int64)
    tpot = (0.03 + 0.0004 * capacity) * slowness / speed
    begin, finish = _serve(arrival, (output * tpot).astype(np.float64), int(capacity), random)
    first = begin + 0.05 * slowness + prompt * 0.0002
    finish = np.maximum(finish, first)

    refused = np.arange(num_requests) < num_refused
    gap = np.where(output > 1, (finish - first) / np.maximum(output - 1, 1), np.nan)
    figures = {
        "queueing_s": begin - arrival,
        "ttft_s": first - arrival,
        "tpot_s": gap,
        "e2e_s": finish - arrival,
        "normalized_latency_s_per_token": (finish - arrival) / output,
    }
    preempted = np.where(policy.capacity > 20, random.poisson(0.02 * rate, num_requests), 0)
    requests: dict[str, Any] = {
        "request": np.arange(num_requests),
        "arrival_s": arrival,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "num_sequences": np.ones(num_requests, np.int64),
        "status": np.where(refused, "refused", "finished"),
        "reason": np.where(refused, "outgrew the pool", ""),
        "measured": (np.arange(num_requests) >= num_requests // 10).astype(np.int64),
        **{name: np.where(refused, np.nan, values) for name, values in figures.items()},
        "preemptions_recompute": preempted,
        "preemptions_swap": np.zeros(num_requests, np.int64),
        "recomputed_tokens": preempted * (prompt + 100),
    }
    timeline = _timeline(policy, capacity, tail, arrival, begin, finish)
    return _summary(row, policy, point, seed, requests, timeline, refused), requests, timeline


def _serve(
    arrival: NDArray[np.float64], service: NDArray[np.float64], seats: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return when each request begins and ends with so many seats, first come first served."""
    free_at = np.zeros(max(seats, 1))
    begin, finish = np.empty_like(arrival), np.empty_like(arrival)
    for index, at in enumerate(arrival):
        seat = int(free_at.argmin())
        begin[index] = max(at, free_at[seat])
        finish[index] = begin[index] + service[index] * random.uniform(0.97, 1.03)
        free_at[seat] = finish[index]
    return begin, finish


def _timeline(
    policy: Policy,
    capacity: float,
    tail: float,
    arrival: NDArray[np.float64],
    begin: NDArray[np.float64],
    finish: NDArray[np.float64],
) -> dict[str, Any]:
    width = float(finish.max()) / NUM_BINS
    t = np.arange(NUM_BINS) * width

    def between(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        overlap = np.minimum(end[None, :], (t + width)[:, None]) - np.maximum(start[None, :], t[:, None])
        total: NDArray[np.float64] = np.maximum(overlap, 0).sum(axis=1) / width
        return total

    running, waiting = between(begin, finish), between(arrival, begin)
    load = np.minimum(running / capacity, 1.0)
    rest = 1 - policy.live - policy.reserved - policy.internal
    blocked = waiting > 0
    parts = {
        "live": policy.live * load * (1 - tail),
        "cached": np.zeros(NUM_BINS),
        "reserved": policy.reserved * load,
        "internal": policy.internal * load + policy.live * load * tail,
    }
    left = 1 - sum(parts.values())
    external = np.where(blocked, left, np.minimum(rest * 0.3, left))
    return {
        "t_s": t,
        "width_s": np.full(NUM_BINS, width),
        **parts,
        "external": external,
        "free": left - external,
        "running": running,
        "waiting": waiting,
        "swapped": np.zeros(NUM_BINS),
    }


def _summary(
    row: str,
    policy: Policy,
    point: Mapping[str, Any],
    seed: int,
    requests: Mapping[str, Any],
    timeline: Mapping[str, Any],
    refused: NDArray[np.bool_],
) -> dict[str, Any]:
    end = float(requests["arrival_s"][-1])
    inside = timeline["t_s"] < end
    chosen = ~refused & (requests["measured"] == 1)
    done = ~refused & (requests["arrival_s"] + requests["e2e_s"] <= end)
    latencies: dict[str, float] = {
        "normalized_latency_s_per_token": float(requests["normalized_latency_s_per_token"][chosen].mean())
    }
    for short in ("ttft", "tpot", "e2e", "queueing"):
        values = requests[f"{short}_s"][chosen]
        latencies[f"{short}_mean_s"] = float(np.nanmean(values))
        latencies |= {f"{short}_p{q}_s": float(np.nanpercentile(values, q)) for q in (50, 90, 99)}
    waiting = timeline["waiting"][inside]
    memory_share = float((waiting > 0.5).mean())
    return {
        "allocator": row,
        "policy": policy.policy,
        "backend": "cost_model",
        "seed": seed,
        **point,
        "utilization": float(timeline["live"][inside].mean()),
        **{
            part: float(timeline[part][inside].mean())
            for part in ("cached", "reserved", "internal", "external", "free")
        },
        "external_index": 0.3 if policy.policy == "contiguous" else None,
        "sharing_saving": policy.saves,
        "mean_batched_requests": float(timeline["running"][inside].mean()),
        "peak_batched_requests": int(timeline["running"].max()),
        "mean_waiting_requests": float(waiting.mean()),
        "throughput_requests_per_s": float(done.sum() / end),
        "throughput_output_tokens_per_s": float(requests["output_tokens"][done].sum() / end),
        "throughput_total_tokens_per_s": float(
            (requests["output_tokens"] + requests["prompt_tokens"])[done].sum() / end
        ),
        "goodput_requests_per_s": float(done.sum() / end),
        **latencies,
        "finished": int((~refused).sum()),
        "refused": int(refused.sum()),
        "unfinished": 0,
        "offered_requests": len(refused),
        "preemptions_recompute": int(requests["preemptions_recompute"].sum()),
        "preemptions_swap": 0,
        "recomputed_tokens": int(requests["recomputed_tokens"].sum()),
        "swapped_out_bytes": int(requests["recomputed_tokens"].sum()) * 819_200 if policy.saves else 0,
        "swapped_in_bytes": int(requests["recomputed_tokens"].sum()) * 819_200 if policy.saves else 0,
        "swap_stall_s": 0.0012 * int(requests["recomputed_tokens"].sum()) if policy.saves else 0.0,
        "copied_blocks": policy.copies,
        "limited_by": "memory" if memory_share > 0.5 else "load",
        "limited_load": 1 - memory_share,
        "limited_memory": memory_share,
        "limited_sequences": 0.0,
        "limited_tokens": 0.0,
        "window": "steady",
        "overloaded": bool(waiting[-1] > waiting[0] + 10),
        "iterations": 1000,
        "simulated_s": float(timeline["t_s"][-1] + timeline["width_s"][-1]),
        "oracle": policy.oracle,
        **_times(policy, float(timeline["running"][inside].mean())),
    }


def _times(policy: Policy, running: float) -> dict[str, float]:
    """Return shares of the time that sum to 1: the more requests run, the more of it goes to attention."""
    attention = min(0.012 * running, 0.4)
    shares = {
        "attention": attention,
        "prefill": 0.031,
        "recompute": 0.008 if policy.capacity > 20 else 0.0,
        "copies": 0.013 if policy.copies else 0.0,
        "swaps": 0.021 if policy.saves else 0.0,
        "overhead": 0.052,
        "idle": 0.3 / (1 + running),
    }
    shares["weights"] = 1 - sum(shares.values())
    return {f"time_{name}": shares[name] for name in TIMES}
