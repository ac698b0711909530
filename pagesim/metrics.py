"""Pure functions from what was recorded to the figures of the summary (semantics, sections 4 and 5).

Shares, rates and means are taken over the measuring window; counts of requests, preemptions and
bytes over the whole run. A ratio over time is the ratio of the integrals.

Requests are read some at a time, so memory does not grow with their number.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagesim.numbers import Numbers
from pagesim.record import (
    INTEGRALS,
    NO_INSTANT,
    PARTS,
    REASONS,
    REQUEST_COLUMNS,
    STATUSES,
    Record,
    RequestRows,
    Snapshot,
)
from pagesim.units import TICKS_PER_SECOND

Value = str | int | float | bool | None
Floats = NDArray[np.float64]

LATENCIES: Final = ("normalized_latency_s_per_token", "ttft_s", "tpot_s", "e2e_s", "queueing_s")
"""Columns of a request's figures that the summary tells of: means, and of all but the first percentiles."""

PERCENTILES: Final = (50, 90, 99)

OVERLOAD_SHARE: Final = 0.05
"""A queue that grew by more than this share of the window's arrivals says that the load was too high."""


def window(record: Record) -> tuple[Snapshot, Snapshot, str]:
    """Return the first and last snapshot of the measuring window, and its name: ``steady`` or ``all``."""
    if record.opened is not None and record.closed is not None and record.closed.time > record.opened.time:
        return record.opened, record.closed, "steady"
    return record.start, record.end, "all"


def summarise(record: Record, *, slo_ttft: int | None = None, slo_tpot: int | None = None) -> dict[str, Value]:
    """Return the figures of one run, by the names of the summary's columns.

    Args:
        record: of the run.
        slo_ttft, slo_tpot: objectives in ticks; None: none.
    """
    first, last, name = window(record)
    span = max(last.time - first.time, 1)
    return {
        **memory(record, first, last, span),
        **batch(record, first, last, span, name),
        **throughput(record, first, last, span, slo_ttft, slo_tpot),
        **latency(record, name),
        **counts(record),
        **limits(first, last, span),
        **where_time_went(first, last, span),
        "window": name,
        "overloaded": overloaded(first, last) if name == "steady" else overloaded_by_arrivals(record),
        "iterations": record.end.counters["iterations"],
        "simulated_s": record.end.time / TICKS_PER_SECOND,
    }


def memory(record: Record, first: Snapshot, last: Snapshot, span: int) -> dict[str, Value]:
    """Return the account as shares of the device pool; they sum to 1."""
    area = {name: last.integrals[name] - first.integrals[name] for name in INTEGRALS}
    total = record.num_slots * span
    external_index: float | None = None
    if record.is_placed:
        external_index = 1 - area["largest_free_run"] / area["free_blocks"] if area["free_blocks"] else 0.0
    return {
        "utilization": area["live"] / total,
        "cached": area["cached"] / total,
        "reserved": (area["useful"] - area["live"]) / total,
        "internal": area["internal"] / total,
        "external": area["external"] / total,
        "free": area["free"] / total,
        "external_index": external_index,
        "sharing_saving": 1 - area["blocks_held"] / area["references"] if area["references"] else 0.0,
    }


def batch(record: Record, first: Snapshot, last: Snapshot, span: int, name: str) -> dict[str, Value]:
    """Return how many requests ran and waited at a time."""
    return {
        "mean_batched_requests": (last.integrals["running"] - first.integrals["running"]) / span,
        "peak_batched_requests": record.peak_running if name == "all" else record.peak_running_in_window,
        "mean_waiting_requests": (last.integrals["waiting"] - first.integrals["waiting"]) / span,
    }


def throughput(
    record: Record, first: Snapshot, last: Snapshot, span: int, slo_ttft: int | None, slo_tpot: int | None
) -> dict[str, Value]:
    """Return what was served per second of the window; goodput counts requests that met the objectives."""
    done = {name: last.counters[name] - first.counters[name] for name in ("finished", "output_tokens", "prompt_tokens")}
    per_second = TICKS_PER_SECOND / span
    met = sum(_met(rows, first, last, slo_ttft, slo_tpot) for rows in record.chunks())
    return {
        "throughput_requests_per_s": done["finished"] * per_second,
        "throughput_output_tokens_per_s": done["output_tokens"] * per_second,
        "throughput_total_tokens_per_s": (done["output_tokens"] + done["prompt_tokens"]) * per_second,
        "goodput_requests_per_s": met * per_second,
    }


def _met(rows: RequestRows, first: Snapshot, last: Snapshot, slo_ttft: int | None, slo_tpot: int | None) -> int:
    """Return how many requests finished in the window and met the objectives."""
    finished_at = rows.column("last_token_at")
    inside = (rows.column("status") == STATUSES.index("finished")) & (finished_at > first.time)
    met = inside & (finished_at <= last.time)
    if slo_ttft is not None:
        met &= rows.column("first_token_at") - rows.column("arrival") <= slo_ttft
    if slo_tpot is not None:
        # A one-token output has no TPOT and meets the objective.
        gaps = np.maximum(rows.column("output_tokens") - 1, 1)
        met &= finished_at - rows.column("first_token_at") <= slo_tpot * gaps
    return int(met.sum())


def request_figures(rows: RequestRows) -> dict[str, NDArray[np.float64]]:
    """Return the columns of a request's row in seconds; NaN where an instant never came."""

    def instant(name: str) -> Floats:
        ticks = rows.column(name)
        return np.where(ticks == NO_INSTANT, np.nan, ticks / TICKS_PER_SECOND)

    arrival, first = instant("arrival"), instant("first_token_at")
    finished = rows.column("status") == STATUSES.index("finished")
    last = np.where(finished, instant("last_token_at"), np.nan)
    output = rows.column("output_tokens")
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(output > 1, (last - first) / (output - 1), np.nan)
    return {
        "arrival_s": arrival,
        "queueing_s": instant("admitted_at") - arrival,
        "ttft_s": first - arrival,
        "tpot_s": tpot,
        "e2e_s": last - arrival,
        "normalized_latency_s_per_token": (last - arrival) / output,
    }


def latency(record: Record, name: str) -> dict[str, Value]:
    """Return the service that requests saw: those that finished, and arrived inside the window."""
    columns = {name: Numbers(record.rows.folder) for name in LATENCIES}
    for rows in record.chunks():
        chosen = rows.column("status") == STATUSES.index("finished")
        if name != "all":
            chosen &= rows.column("measured") == 1
        figures = request_figures(rows)
        for column, numbers in columns.items():
            numbers.extend(figures[column][chosen])
    result: dict[str, Value] = {"normalized_latency_s_per_token": columns.pop("normalized_latency_s_per_token").mean()}
    for column, numbers in columns.items():
        short = column.removesuffix("_s")
        result[f"{short}_mean_s"] = numbers.mean()
        found = zip(PERCENTILES, numbers.percentiles(PERCENTILES), strict=True)
        result |= {f"{short}_p{q}_s": value for q, value in found}
    gaps = record.gaps
    for q in PERCENTILES:
        gap = gaps.quantile(q / 100)
        result[f"itl_p{q}_s"] = None if gap is None else gap / TICKS_PER_SECOND
    result["itl_max_s"] = gaps.maximum / TICKS_PER_SECOND if gaps.counts else None
    return result


def counts(record: Record) -> dict[str, Value]:
    """Return the buckets that requests ended in, and the overheads, over the whole run."""
    end = record.end.counters
    buckets = sum(np.bincount(rows.column("status"), minlength=len(STATUSES)) for rows in record.chunks())
    return {
        **dict(zip(STATUSES, np.asarray(buckets).tolist(), strict=True)),
        "offered_requests": len(record.rows),
        "preemptions_recompute": end["preemptions_recompute"],
        "preemptions_swap": end["preemptions_swap"],
        "recomputed_tokens": end["recomputed_tokens"],
        "swapped_out_bytes": end["swapped_out_blocks"] * record.block_bytes,
        "swapped_in_bytes": end["swapped_in_blocks"] * record.block_bytes,
        "swap_stall_s": record.end.parts["swaps"] / TICKS_PER_SECOND,
        "copied_blocks": end["copied_blocks"],
    }


def limits(first: Snapshot, last: Snapshot, span: int) -> dict[str, Value]:
    """Return the shares of time in which admission was held by each reason; the largest names the run."""
    shares = {reason: (last.reasons[reason] - first.reasons[reason]) / span for reason in REASONS}
    return {
        "limited_by": max(shares, key=lambda reason: shares[reason]),
        **{f"limited_{reason}": share for reason, share in shares.items()},
    }


def where_time_went(first: Snapshot, last: Snapshot, span: int) -> dict[str, Value]:
    """Return shares of the window by what the steps that began in it did, and of idling."""
    parts = {part: last.parts[part] - first.parts[part] for part in PARTS}
    idle = last.idle - first.idle
    total = max(sum(parts.values()) + idle, 1)
    return {**{f"time_{part}": ticks / total for part, ticks in parts.items()}, "time_idle": idle / total}


def overloaded(first: Snapshot, last: Snapshot) -> bool:
    """Return whether the queue grew over the window: the load is more than can be served."""
    arrivals = last.counters["arrived"] - first.counters["arrived"]
    return last.num_waiting - first.num_waiting > max(OVERLOAD_SHARE * arrivals, 10)


def overloaded_by_arrivals(record: Record) -> bool:
    """Return whether the queue grew between the first tenth of the arrivals and the last, whatever came after.

    For windows that end when the queue is empty again.
    """
    number = len(record.rows)
    if not number:
        return False

    def arrival_of(index: int) -> int:
        return int(record.rows.read(index, index + 1)[0, REQUEST_COLUMNS.index("arrival")])

    def num_waiting(rows: RequestRows, tick: int) -> int:
        arrival, admitted = rows.column("arrival"), rows.column("admitted_at")
        queued = rows.column("status") != STATUSES.index("refused")
        return int((queued & (arrival <= tick) & ((admitted == NO_INSTANT) | (admitted > tick))).sum())

    first, last = arrival_of((number - 1) // 10), arrival_of(number - 1)
    grown = sum(num_waiting(rows, last) - num_waiting(rows, first) for rows in record.chunks())
    return grown > max(OVERLOAD_SHARE * number, 10)
