"""From what was recorded to figures: each against numbers that can be checked by hand."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim import metrics
from pagesim.backend import FakeBackend
from pagesim.journal import GapHistogram
from pagesim.record import (
    COUNTERS,
    INTEGRALS,
    NO_INSTANT,
    PARTS,
    REASONS,
    REQUEST_COLUMNS,
    STATUSES,
    Record,
    Snapshot,
)
from pagesim.rows import Rows
from pagesim.sequence import Request
from pagesim.units import TICKS_PER_SECOND
from tests.support.runs import Server

SECOND = TICKS_PER_SECOND


def snapshot(time: int = 0, *, idle: int = 0, num_waiting: int = 0, **values: int) -> Snapshot:
    """Return a snapshot in which everything that is not named is 0."""

    def pick(names: tuple[str, ...]) -> dict[str, int]:
        return {name: values.get(name, 0) for name in names}

    integrals, counters = pick(INTEGRALS), pick(COUNTERS)
    return Snapshot(time, integrals, pick(REASONS), pick(PARTS), idle, counters, num_waiting)


def row(**values: int | str) -> list[int]:
    """Return a request's row: by default it arrived at 0 and finished; ``status`` is a name."""
    defaults: dict[str, int | str] = {
        "prompt_tokens": 5,
        "output_tokens": 1,
        "num_sequences": 1,
        "measured": 1,
        "status": "finished",
    }
    filled = defaults | values
    filled["status"] = STATUSES.index(str(filled["status"]))
    return [int(filled.get(name, 0)) for name in REQUEST_COLUMNS]


def make_record(rows: list[list[int]] | None = None, **values: Any) -> Record:
    """Return a record of a run of 10 seconds over 100 slots."""
    table = Rows(len(REQUEST_COLUMNS))
    for numbers in rows or []:
        table.append(numbers)
    defaults: dict[str, Any] = {
        "num_slots": 100,
        "block_bytes": 1000,
        "is_placed": False,
        "start": snapshot(),
        "end": snapshot(10 * SECOND),
        "opened": None,
        "closed": None,
        "peak_running": 7,
        "peak_running_in_window": 5,
        "bin_width": SECOND,
        "edges": [],
        "rows": table,
        "reasons": [""],
        "gaps": GapHistogram(),
    }
    return Record(**(defaults | values))


# Windows


def test_the_window_is_the_whole_run_where_none_opened_or_it_spans_nothing() -> None:
    record = make_record()
    assert metrics.window(record) == (record.start, record.end, "all")
    opened = snapshot(3 * SECOND)
    for closed in (None, opened, snapshot(2 * SECOND)):
        assert metrics.window(make_record(opened=opened, closed=closed))[2] == "all"
    assert metrics.window(make_record(closed=opened))[2] == "all"
    steady = make_record(opened=opened, closed=snapshot(4 * SECOND))
    assert metrics.window(steady) == (opened, steady.closed, "steady")


def test_a_run_of_no_time_divides_by_nothing() -> None:
    figures = metrics.summarise(make_record(end=snapshot(0)))
    assert figures["utilization"] == 0
    assert figures["throughput_requests_per_s"] == 0
    assert figures["time_idle"] == 0
    assert figures["ttft_mean_s"] is None


def test_the_peak_is_the_window_s() -> None:
    steady = make_record(opened=snapshot(SECOND), closed=snapshot(2 * SECOND))
    assert metrics.summarise(steady)["peak_batched_requests"] == 5
    assert metrics.summarise(make_record())["peak_batched_requests"] == 7


# Memory


def test_shares_are_ratios_of_differences_of_integrals() -> None:
    opened = snapshot(2 * SECOND, live=9, useful=99, free=7, running=3, waiting=1)
    span = 5 * SECOND
    closed = snapshot(
        2 * SECOND + span,
        live=9 + 30 * span,
        useful=99 + 45 * span,
        internal=20 * span,
        external=15 * span,
        free=7 + 12 * span,
        cached=8 * span,
        blocks_held=3 * span,
        references=4 * span,
        running=3 + 6 * span,
        waiting=1 + 2 * span,
    )
    figures = metrics.summarise(make_record(opened=opened, closed=closed))
    shares = {name: figures[name] for name in ("utilization", "reserved", "internal", "external", "free", "cached")}
    assert shares == {
        "utilization": 0.3,
        "reserved": pytest.approx(0.15),
        "internal": 0.2,
        "external": 0.15,
        "free": 0.12,
        "cached": 0.08,
    }
    assert figures["sharing_saving"] == 0.25
    assert figures["external_index"] is None
    assert (figures["mean_batched_requests"], figures["mean_waiting_requests"]) == (6, 2)


def test_the_external_index_is_0_when_nothing_was_free_and_empty_without_placement() -> None:
    end = snapshot(10 * SECOND, largest_free_run=30, free_blocks=40)
    assert metrics.summarise(make_record(end=end, is_placed=True))["external_index"] == 0.25
    assert metrics.summarise(make_record(is_placed=True))["external_index"] == 0
    assert metrics.summarise(make_record(end=end))["external_index"] is None


def test_nothing_shared_saves_nothing() -> None:
    assert metrics.summarise(make_record())["sharing_saving"] == 0


# Throughput


def test_throughput_counts_the_window() -> None:
    opened = snapshot(2 * SECOND, finished=10, output_tokens=100, prompt_tokens=1000)
    closed = snapshot(6 * SECOND, finished=18, output_tokens=160, prompt_tokens=1100)
    figures = metrics.summarise(make_record(opened=opened, closed=closed))
    assert figures["throughput_requests_per_s"] == 2
    assert figures["throughput_output_tokens_per_s"] == 15
    assert figures["throughput_total_tokens_per_s"] == 40


def goodput(rows: list[list[int]], **objectives: int) -> Any:
    """Return goodput over 10 seconds."""
    return metrics.summarise(make_record(rows), **objectives)["goodput_requests_per_s"]


def test_goodput_counts_requests_that_meet_the_objectives() -> None:
    rows = [
        row(first_token_at=1 * SECOND, last_token_at=5 * SECOND, output_tokens=5),  # TTFT 1 s, TPOT 1 s
        row(first_token_at=3 * SECOND, last_token_at=4 * SECOND, output_tokens=5),  # 3 s, 0.25 s
        row(first_token_at=2 * SECOND, last_token_at=2 * SECOND),  # 2 s, no TPOT
        row(status="refused", first_token_at=NO_INSTANT, last_token_at=NO_INSTANT),
        row(status="unfinished", first_token_at=SECOND, last_token_at=NO_INSTANT),
    ]
    assert goodput(rows) == pytest.approx(0.3)
    assert goodput(rows, slo_ttft=2 * SECOND) == pytest.approx(0.2)
    assert goodput(rows, slo_ttft=2 * SECOND - 1) == pytest.approx(0.1)
    assert goodput(rows, slo_tpot=SECOND // 4) == pytest.approx(0.2)
    assert goodput(rows, slo_tpot=SECOND // 4 - 1) == pytest.approx(0.1)  # one token meets any objective
    assert goodput(rows, slo_ttft=SECOND, slo_tpot=SECOND) == pytest.approx(0.1)


def test_goodput_counts_ends_inside_the_window() -> None:
    rows = [row(first_token_at=1, last_token_at=second * SECOND) for second in (2, 3, 5, 6)]
    steady = make_record(rows, opened=snapshot(2 * SECOND), closed=snapshot(5 * SECOND))
    assert metrics.summarise(steady)["goodput_requests_per_s"] == pytest.approx(2 / 3)


# Latency


def test_latencies_of_finished_and_measured_requests() -> None:
    rows = [
        row(
            arrival=1 * SECOND,
            admitted_at=2 * SECOND,
            first_token_at=4 * SECOND,
            last_token_at=8 * SECOND,
            output_tokens=5,
        ),
        row(admitted_at=0, first_token_at=SECOND, last_token_at=SECOND, output_tokens=1),
        row(admitted_at=0, first_token_at=9, last_token_at=9, measured=0),
        row(status="unfinished", admitted_at=0, first_token_at=9, last_token_at=NO_INSTANT),
    ]
    steady = {"opened": snapshot(1), "closed": snapshot(2)}
    figures = metrics.summarise(make_record(rows, **steady))
    assert figures["queueing_mean_s"] == 0.5
    assert figures["ttft_mean_s"] == 2
    assert figures["tpot_mean_s"] == 1  # of the first alone
    assert figures["e2e_mean_s"] == 4
    assert figures["normalized_latency_s_per_token"] == pytest.approx((7 / 5 + 1 / 1) / 2)
    assert figures["ttft_p50_s"] == 2
    assert figures["ttft_p90_s"] == pytest.approx(1 + 0.9 * 2)
    assert figures["ttft_p99_s"] == pytest.approx(1 + 0.99 * 2)
    everyone = metrics.summarise(make_record(rows))
    assert everyone["ttft_mean_s"] == pytest.approx((3 + 1 + 9 / SECOND) / 3)


def test_without_finished_requests_there_are_no_latencies() -> None:
    figures = metrics.summarise(make_record([row(status="refused", admitted_at=NO_INSTANT)]))
    names = ["normalized_latency_s_per_token", "itl_p99_s", "itl_max_s"]
    names += [f"{figure}_{what}_s" for figure in ("ttft", "tpot", "e2e", "queueing") for what in ("mean", "p50", "p99")]
    assert [figures[name] for name in names] == [None] * len(names)


def test_a_run_of_one_token_outputs_has_no_tpot() -> None:
    figures = metrics.summarise(make_record([row(first_token_at=SECOND, last_token_at=SECOND)]))
    assert (figures["tpot_mean_s"], figures["tpot_p99_s"], figures["ttft_mean_s"]) == (None, None, 1)


def test_instants_that_never_came_are_nan() -> None:
    rows = [row(status="unfinished", admitted_at=NO_INSTANT, first_token_at=NO_INSTANT, last_token_at=NO_INSTANT)]
    figures = metrics.request_figures(next(make_record(rows).chunks()))
    assert all(np.isnan(figures[name]).all() for name in figures if name != "arrival_s")


def test_gaps_are_figures_of_every_gap() -> None:
    gaps = GapHistogram()
    gaps.add(100, 98)
    gaps.add(1000, 2)
    gaps.add(2**40 + 1, 1)
    figures = metrics.summarise(make_record(gaps=gaps))
    assert figures["itl_p50_s"] == 100 / SECOND
    assert figures["itl_p90_s"] == 100 / SECOND
    assert figures["itl_p99_s"] == 1000 / SECOND
    assert figures["itl_max_s"] == (2**40 + 1) / SECOND


# Counts, limits, time


def test_counts_are_over_the_whole_run() -> None:
    end = snapshot(
        10 * SECOND,
        swapped_out_blocks=3,
        swapped_in_blocks=2,
        copied_blocks=4,
        preemptions_recompute=5,
        preemptions_swap=6,
        recomputed_tokens=7,
        swaps=2 * SECOND,
        iterations=9,
    )
    rows = [row(), row(status="refused"), row(), row(status="unfinished")]
    figures = metrics.summarise(make_record(rows, end=end, opened=snapshot(SECOND), closed=snapshot(2 * SECOND)))
    assert (figures["finished"], figures["refused"], figures["unfinished"], figures["offered_requests"]) == (2, 1, 1, 4)
    assert (figures["swapped_out_bytes"], figures["swapped_in_bytes"], figures["copied_blocks"]) == (3000, 2000, 4)
    assert (figures["preemptions_recompute"], figures["preemptions_swap"], figures["recomputed_tokens"]) == (5, 6, 7)
    assert (figures["swap_stall_s"], figures["iterations"], figures["simulated_s"]) == (2, 9, 10)


def test_the_largest_share_of_time_names_the_run() -> None:
    end = snapshot(10 * SECOND, load=SECOND, memory=2 * SECOND, sequences=4 * SECOND, tokens=3 * SECOND)
    figures = metrics.summarise(make_record(end=end))
    assert figures["limited_by"] == "sequences"
    assert [figures[f"limited_{reason}"] for reason in REASONS] == [0.1, 0.2, 0.4, 0.3]


def test_where_the_time_went_sums_to_1() -> None:
    end = snapshot(10 * SECOND, idle=4, weights=1, attention=2, prefill=3, recompute=4, copies=5, swaps=6, overhead=7)
    figures = metrics.summarise(make_record(end=end))
    assert figures["time_weights"] == 1 / 32
    assert figures["time_idle"] == 4 / 32
    assert sum(float(figures[f"time_{part}"] or 0) for part in (*PARTS, "idle")) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arrived", "grown", "overloaded"),
    [(100, 10, False), (100, 11, True), (1000, 50, False), (1000, 51, True), (0, 10, False), (100, -50, False)],
)
def test_a_queue_that_grew_by_more_than_a_twentieth_of_the_arrivals_says_overload(
    arrived: int, grown: int, overloaded: bool
) -> None:
    first, last = snapshot(1, num_waiting=60, arrived=5), snapshot(2, num_waiting=60 + grown, arrived=5 + arrived)
    assert metrics.overloaded(first, last) is overloaded


def test_a_server_that_is_sent_too_much_is_overloaded() -> None:
    """Steps of 1,000 ticks serve one request each, one at a time; they arrive every 500 or every 2,000."""
    for spacing, overloaded in ((500, True), (2000, False)):
        requests = [Request(number, number * spacing, 4, 1) for number in range(100)]
        server = Server(8, 4, max_num_seqs=1)
        record = server.run(requests, backend=FakeBackend(1000), window=(spacing * 10, spacing * 99)).record(1)
        assert metrics.summarise(record)["overloaded"] is overloaded


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_the_parts_of_memory_and_of_time_sum_to_1_in_any_run(seed: int) -> None:
    rng = Random(seed)
    requests = [Request(number, number * 9, rng.randint(1, 20), rng.randint(1, 20)) for number in range(8)]
    allocator = rng.choice(["paged", "pow2-buddy", "oracle-first_fit", "max-best_fit"])
    server = Server(rng.randint(10, 40), rng.randint(1, 4), allocator, max_model_len=40, num_slots=None)
    record = server.run(requests, backend=FakeBackend(10), window=(9, 63)).record(1)
    figures = metrics.summarise(record)
    parts = ("utilization", "cached", "reserved", "internal", "external", "free")
    assert sum(float(figures[part] or 0) for part in parts) == pytest.approx(1, abs=1e-12)
    assert sum(float(figures[f"limited_{reason}"] or 0) for reason in REASONS) == pytest.approx(1, abs=1e-12)
    assert sum(float(figures[f"time_{part}"] or 0) for part in (*PARTS, "idle")) == pytest.approx(1, abs=1e-12)
    assert figures["offered_requests"] == 8


def test_overload_is_seen_whatever_the_window() -> None:
    for spacing, overloaded in ((500, True), (2000, False)):
        server = Server(64, 4, max_num_seqs=1)
        requests = [Request(number, number * spacing, 4, 1) for number in range(60)]
        record = server.run(requests).record(block_bytes=1)
        summary = metrics.summarise(record)
        assert (summary["window"], summary["overloaded"]) == ("all", overloaded)
