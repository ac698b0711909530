"""States over time: exact integrals, bins, windows, rows; and the gaps between tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagesim.backend import FakeBackend
from pagesim.journal import GapHistogram
from pagesim.record import INTEGRALS, REQUEST_COLUMNS, STATUSES, Record
from pagesim.recorder import Recorder
from pagesim.runs import timeline_table
from pagesim.sequence import Request
from pagesim.sources import ClosedSource, OpenSource, RequestFactory
from pagesim.workload import ClosedLoop, Workload
from tests.support.runs import Server


def statuses(record: Record) -> list[str]:
    """Return the bucket of each request."""
    return [STATUSES[status] for status in record.column("status")]


def test_integrals_of_one_request_by_hand() -> None:
    """A prompt of 3 and 2 outputs in blocks of 4, 10 ticks a step, from tick 5 on; the pool has a tail of 1 slot."""
    server = Server(2, 4, num_slots=9)
    record = server.run([Request(0, 5, 3, 2)], backend=FakeBackend(10)).record(1)
    assert record.end.time == 25
    assert record.end.idle == 5
    assert record.end.integrals == {
        "live": 0 * 10 + 3 * 10,
        "useful": 4 * 20,
        "internal": 0,
        "external": 1 * 25,
        "free": 8 * 5 + 4 * 20,
        "cached": 0,
        "blocks_held": 20,
        "references": 20,
        "largest_free_run": 0,
        "free_blocks": 0,
        "running": 20,
        "waiting": 0,
        "swapped": 0,
    }
    assert record.end.parts["overhead"] == 20
    assert record.end.reasons == {"load": 25, "memory": 0, "sequences": 0, "tokens": 0}


def test_free_slots_are_external_while_the_allocator_refuses_the_head() -> None:
    server = Server(4, 4)
    requests = [Request(0, 0, 12, 2), Request(1, 0, 8, 1)]
    record = server.run(requests, backend=FakeBackend(10)).record(1)
    assert record.end.time == 30
    # Twice 10 ticks with one free block that the second cannot use, then 10 with two blocks that nobody wants.
    assert (record.end.integrals["external"], record.end.integrals["free"]) == (4 * 10, 8 * 10)
    assert record.end.integrals["waiting"] == 20
    assert record.end.reasons == {"load": 10, "memory": 20, "sequences": 0, "tokens": 0}


def test_free_slots_are_free_while_a_seat_is_missing() -> None:
    server = Server(4, 4, max_num_seqs=1)
    record = server.run([Request(0, 0, 8, 1), Request(1, 0, 8, 1)], backend=FakeBackend(10)).record(1)
    assert (record.end.integrals["external"], record.end.integrals["free"]) == (0, 2 * 80)
    assert record.end.reasons["sequences"] == 10


def test_an_arrival_during_a_step_waits_from_then_on() -> None:
    server = Server(8, 4)
    record = server.run([Request(0, 0, 4, 1), Request(1, 3, 4, 1)], backend=FakeBackend(10)).record(1)
    assert record.end.integrals["waiting"] == 7
    assert record.column("admitted_at").tolist() == [0, 10]


def test_an_arrival_at_a_boundary_is_visible_at_it_in_file_order() -> None:
    server = Server(8, 4, max_num_seqs=2)
    requests = [Request(0, 0, 4, 2), Request(1, 10, 4, 1), Request(2, 10, 4, 1)]
    record = server.run(requests, backend=FakeBackend(10)).record(1)
    assert record.column("admitted_at").tolist() == [0, 10, 20]
    assert record.end.time == 30


def test_holes_are_only_integrated_where_runs_are_placed() -> None:
    server = Server(16, 1, "oracle-first_fit")
    requests = [Request(0, 0, 4, 1), Request(1, 0, 4, 3), Request(2, 0, 4, 1)]
    record = server.run(requests, backend=FakeBackend(10)).record(1)
    assert record.is_placed
    # 4 + 6 + 4 held in the first step; then a hole of 4, six held, and a hole of 6.
    assert record.end.integrals["free_blocks"] == 2 * 10 + 10 * 20
    assert record.end.integrals["largest_free_run"] == 2 * 10 + 6 * 20
    assert not Server(16, 1).run([Request(0, 0, 4, 1)]).record(1).is_placed


# Bins


def test_bins_double_when_there_are_too_many() -> None:
    server = Server(64, 4)
    recorder = server.run([Request(0, 0, 4, 25)], backend=FakeBackend(10), first_bin=10, num_bins=8)
    record = recorder.record(1)
    assert record.end.time == 250
    assert (record.bin_width, len(record.edges)) == (40, 1 + 6 + 1)
    live = INTEGRALS.index("live")
    stored = [0, *range(4, 28)]  # in each step of 10 ticks
    assert [edge[live] for edge in record.edges[:7]] == [10 * sum(stored[: 4 * number]) for number in range(7)]
    assert record.edges[7][live] == record.edges[6][live] + 10 * stored[24]  # then nothing is live any more


def test_a_run_that_ends_on_an_edge_has_no_further_bin() -> None:
    record = Server(8, 4).run([Request(0, 0, 4, 2)], backend=FakeBackend(10), first_bin=10).record(1)
    assert (record.end.time, len(record.edges)) == (20, 3)
    table = timeline_table(record)
    assert list(table["running"]) == [1.0, 1.0]
    assert list(table["live"]) == [0.0, 4 / 32]
    # The second block has one token to come, and three slots for nobody.
    assert list(table["reserved"]) == [4 / 32, 1 / 32]
    assert list(table["internal"]) == [0, 3 / 32]


@pytest.mark.parametrize("share", ["live", "cached", "reserved", "internal", "external", "free"])
def test_the_timeline_is_part_of_a_whole(share: str) -> None:
    server = Server(6, 4, watermark=1, num_slots=27)
    requests = [Request(number, 7 * number, 3 + number, 2 + number) for number in range(6)]
    table = timeline_table(server.run(requests, backend=FakeBackend(10), first_bin=8).record(1))
    parts = ("live", "cached", "reserved", "internal", "external", "free")
    for row in zip(*(table[part] for part in parts), strict=True):
        assert sum(float(value) for value in row) == pytest.approx(1, abs=1e-12)
    assert all(0 <= float(value) <= 1 for value in table[share])


# Windows


def test_a_window_between_two_instants_splits_a_step() -> None:
    server = Server(8, 4)
    record = server.run([Request(0, 0, 4, 3)], backend=FakeBackend(10), window=(4, 17)).record(1)
    assert record.opened is not None
    assert record.closed is not None
    assert (record.opened.time, record.closed.time) == (4, 17)
    assert record.opened.integrals["running"] == 4
    assert record.closed.integrals["live"] - record.opened.integrals["live"] == 4 * 7
    assert record.peak_running_in_window == 1


def test_a_window_that_never_opens_or_never_closes() -> None:
    record = Server(8, 4).run([Request(0, 0, 4, 2)], backend=FakeBackend(10), window=(50, 60)).record(1)
    assert (record.opened, record.closed) == (None, None)
    record = Server(8, 4).run([Request(0, 0, 4, 2)], backend=FakeBackend(10), window=(5, 60)).record(1)
    assert record.opened is not None
    assert record.closed is not None
    assert (record.opened.time, record.closed.time) == (5, 20)


def test_a_window_from_the_start() -> None:
    record = Server(8, 4).run([Request(0, 0, 4, 2)], backend=FakeBackend(10), window=(0, 20)).record(1)
    assert record.opened is not None
    assert (record.opened.time, record.opened.counters["arrived"]) == (0, 0)
    assert record.closed is not None
    assert record.closed.time == 20


def test_the_peak_of_a_window_counts_who_runs_when_it_opens() -> None:
    requests = [Request(0, 0, 1, 8), Request(1, 0, 1, 2), Request(2, 0, 1, 3)]
    record = Server(32, 1).run(requests, backend=FakeBackend(10), window=(25, 70)).record(1)
    assert (record.peak_running, record.peak_running_in_window) == (3, 2)


# Rows


def test_rows_are_in_the_order_of_the_requests() -> None:
    requests = [Request(0, 0, 4, 9), Request(1, 0, 4, 1), Request(2, 1, 99, 1), Request(3, 2, 4, 2)]
    server = Server(8, 4, max_model_len=50)
    record = server.run(requests, backend=FakeBackend(10)).record(1)
    rows = [dict(zip(REQUEST_COLUMNS, row, strict=True)) for row in record.requests.tolist()]
    assert [row["request"] for row in rows] == [0, 1, 2, 3]
    assert statuses(record) == ["finished", "finished", "refused", "finished"]
    assert [row["admitted_at"] for row in rows] == [0, 0, -1, 10]
    assert [row["first_token_at"] for row in rows] == [10, 10, -1, 20]
    assert [row["last_token_at"] for row in rows] == [90, 10, -1, 30]
    assert record.refusals == {2: "too long: 100 tokens of max_model_len 50"}


def test_too_long_requests_are_cut_where_that_is_asked_for() -> None:
    requests = [Request(0, 0, 40, 30), Request(1, 0, 90, 7), Request(2, 0, 20, 30), Request(3, 0, 50, 1)]
    server = Server(64, 4, max_model_len=50)
    record = server.run(requests, backend=FakeBackend(10), truncate=True).record(1)
    assert statuses(record) == ["finished"] * 4
    assert record.column("prompt_tokens").tolist() == [40, 49, 20, 49]
    assert record.column("output_tokens").tolist() == [10, 1, 30, 1]
    assert record.end.counters["output_tokens"] == 42


def test_inv_7_at_the_horizon_the_rest_is_unfinished() -> None:
    requests = [
        Request(0, 0, 4, 2),
        Request(1, 0, 4, 9),
        Request(2, 21, 4, 9),
        Request(3, 24, 4, 1),
        Request(4, 90, 4, 1),
    ]
    server = Server(32, 4, max_num_seqs=2)
    record = server.run(requests, backend=FakeBackend(10), horizon=35).record(1)
    assert statuses(record) == ["finished", "unfinished", "unfinished", "unfinished", "unfinished"]
    assert record.end.time == 35
    assert record.column("admitted_at").tolist() == [0, 0, 30, -1, -1]
    assert record.column("last_token_at").tolist() == [20, -1, -1, -1, -1]
    assert record.end.integrals["running"] == 2 * 20 + 1 * 10 + 2 * 5
    assert record.end.counters["arrived"] == 4


def test_at_the_horizon_itself_nothing_happens_any_more() -> None:
    requests = [Request(0, 0, 4, 2), Request(1, 20, 4, 1)]
    record = Server(32, 4).run(requests, backend=FakeBackend(10), horizon=20).record(1)
    assert statuses(record) == ["unfinished", "unfinished"]
    assert (record.end.counters["arrived"], record.end.counters["iterations"]) == (1, 1)


def test_a_horizon_after_the_end_is_idle_time() -> None:
    record = Server(32, 4).run([Request(0, 0, 4, 1)], backend=FakeBackend(10), horizon=100).record(1)
    assert statuses(record) == ["finished"]
    assert (record.end.time, record.end.idle, record.end.integrals["free"]) == (100, 90, 128 * 90 + 124 * 10)


# Gaps


def test_gaps_span_preemptions_and_count_measured_requests_only() -> None:
    requests = [Request(0, 0, 4, 3), Request(1, 0, 4, 3)]
    record = Server(2, 4).run(requests, backend=FakeBackend(10)).record(1)
    assert record.gaps.counts == {10: 3, 30: 1}  # the second waits from 10 to 40
    requests = [Request(0, 0, 4, 3), Request(1, 0, 4, 3)]
    requests[1].measured = False
    record = Server(2, 4).run(requests, backend=FakeBackend(10)).record(1)
    assert record.gaps.counts == {10: 2}


def test_one_token_outputs_have_no_gaps() -> None:
    record = Server(8, 4).run([Request(0, 0, 4, 1), Request(1, 0, 4, 1)], backend=FakeBackend(10)).record(1)
    assert (record.gaps.counts, record.gaps.maximum, record.gaps.quantile(0.5)) == ({}, 0, None)


@given(
    gaps=st.lists(st.integers(1, 10**15) | st.integers(1, 5000), min_size=1, max_size=60),
    share=st.sampled_from([0.5, 0.9, 0.99, 1.0, 0.01]),
)
def test_a_quantile_of_the_gaps_is_at_most_a_thousandth_low(gaps: list[int], share: float) -> None:
    histogram = GapHistogram()
    for gap in gaps:
        histogram.add(gap)
    exact = next(gap for rank, gap in enumerate(sorted(gaps), start=1) if rank >= share * len(gaps) - 1e-9)
    found = histogram.quantile(share)
    assert found is not None
    assert exact * (1 - 1 / 1024) < found <= exact
    assert histogram.maximum == max(gaps)
    assert sum(histogram.counts.values()) == len(gaps)


@given(gap=st.integers(1, 2**60))
def test_a_bucket_is_named_by_its_lower_end(gap: int) -> None:
    histogram = GapHistogram()
    histogram.add(gap, 3)
    ((bucket, count),) = histogram.counts.items()
    assert count == 3
    assert bucket <= gap < bucket + max(gap // 1024, 1)
    if gap < 2048:
        assert bucket == gap


# Closed loops: what a source says follows from an end


def test_a_follower_arrives_at_its_time_and_at_once_if_that_has_passed() -> None:
    def after(request: Request, now: int) -> Request | None:
        return Request(request.id + 1, now + (0, 7, -99)[request.id], 4, 1) if request.id < 3 else None

    server = Server(8, 4)
    record = server.run([Request(0, 0, 4, 2)], backend=FakeBackend(10), after=after).record(1)
    assert record.column("arrival").tolist()[:3] == [0, 20, 37]
    assert record.column("admitted_at").tolist() == [0, 20, 37, 47]
    assert record.end.idle == 7


def test_a_client_that_answers_at_once_is_heard_before_the_next_step() -> None:
    def after(request: Request, now: int) -> Request | None:
        return Request(2, now, 4, 1) if request.id == 1 else None

    requests = [Request(0, 0, 4, 9), Request(1, 0, 4, 2)]
    record = Server(16, 4).run(requests, backend=FakeBackend(10), after=after).record(1)
    assert record.column("arrival").tolist() == record.column("admitted_at").tolist() == [0, 0, 20]


def test_a_refusal_brings_about_its_follower_too() -> None:
    def after(request: Request, now: int) -> Request | None:
        return Request(1, now + 5, 4, 1) if request.id == 0 else None

    record = Server(8, 4, max_model_len=20).run([Request(0, 3, 40, 1)], after=after, backend=FakeBackend(10)).record(1)
    assert statuses(record) == ["refused", "finished"]
    assert record.column("admitted_at").tolist() == [-1, 8]


def test_a_closed_loop_keeps_one_request_a_client_and_measures_from_a_tenth_on() -> None:
    """Two clients, twelve requests of one step each, a think time of 5 ticks: each client sends every 15 ticks."""
    workload = Workload.of_arrays(
        "loop",
        prompt_tokens=np.full(12, 4, np.int64),
        output_tokens=np.ones(12, np.int64),
        estimates=np.ones(12, np.int64),
        closed_loop=ClosedLoop(2, np.full(12, 5, np.int64)),
    )
    server = Server(8, 4)
    instants: list[tuple[str, int]] = []

    def progress(num_ended: int, is_last: bool) -> None:
        if is_last:
            server.recorder.close_window()
            instants.append(("closed", num_ended))
        elif num_ended >= 2 and server.recorder.window_opened is None:
            server.recorder.open_window()
            instants.append(("opened", num_ended))

    source = ClosedSource(RequestFactory(workload), lambda: server.recorder.is_measuring, progress)
    record = server.run([], backend=FakeBackend(10), source=source).record(1)
    assert statuses(record) == ["finished"] * 12
    assert record.column("arrival").tolist() == [15 * (number // 2) for number in range(12)]
    assert record.opened is not None
    assert record.closed is not None
    assert (record.opened.time, record.closed.time) == (10, 85)
    assert instants == [("opened", 2), ("closed", 11), ("closed", 12)]
    # Those that were sent before the window opened are not measured; the second client's follower is.
    assert record.column("measured").tolist() == [0, 0, 0, *[1] * 9]
    assert record.peak_running == 2


def test_an_open_source_measures_arrivals_inside_the_window() -> None:
    workload = Workload.of_arrays(
        "open",
        prompt_tokens=np.array([3, 4, 5, 6], np.int64),
        output_tokens=np.array([1, 2, 3, 4], np.int64),
        estimates=np.array([9, 9, 9, 9], np.int64),
        arrivals=np.array([0, 5, 5, 8], np.int64),
    )
    requests = list(OpenSource(RequestFactory(workload, num_sequences=2, oracle=True), (5, 7)).initial())
    assert [(request.id, request.arrival, request.measured) for request in requests] == [
        (0, 0, False),
        (1, 5, True),
        (2, 5, True),
        (3, 8, False),
    ]
    assert [(request.prompt_tokens, request.output_tokens, request.estimate) for request in requests] == [
        (3, 1, 9),
        (4, 2, 9),
        (5, 3, 9),
        (6, 4, 9),
    ]
    assert all(request.oracle and len(request.sequences) == 2 for request in requests)


@given(st.integers(1, 10**7), st.integers(0, 10**5), st.integers(0, 40), st.integers(1, 3))
def test_a_series_of_gaps_counts_as_its_members_do(first: int, slope: int, length: int, count: int) -> None:
    together, apart = GapHistogram(), GapHistogram()
    together.add_series(first, slope, length, count)
    for index in range(length):
        apart.add(first + index * slope, count)
    assert (together.counts, together.maximum) == (apart.counts, apart.maximum)


@given(st.integers(1, 30), st.integers(0, 5000), st.integers(0, 2000))
def test_edges_that_would_be_dropped_need_not_be_taken(num_bins: int, known: int, more: int) -> None:
    class Milli(Recorder):
        FIRST_BIN = 1  # type: ignore[misc]

    def edges(first_bin: int) -> tuple[int, list[tuple[int, ...]]]:
        server = Server(4, 4)
        recorder = Milli(
            server.account, server.journal, server.sched, server.alloc, num_bins=num_bins, first_bin=first_bin
        )
        recorder.advance(known + more)
        record = recorder.record(block_bytes=1)
        return record.bin_width, record.edges

    assert edges(Milli.first_bin_of(known, num_bins)) == edges(1)


def test_inv_7_the_first_requests_of_clients_may_be_refused_on_arrival() -> None:
    prompts = np.array([4, 90, 90, 4, 4, 90, 4, 4], np.int64)  # of 90 tokens there is never room
    workload = Workload.of_arrays(
        "clients",
        prompt_tokens=prompts,
        output_tokens=np.ones(8, np.int64),
        estimates=np.ones(8, np.int64),
        closed_loop=ClosedLoop(3, np.full(8, 5, np.int64)),
    )
    source = ClosedSource(RequestFactory(workload), lambda: True, lambda num_ended, is_last: None)
    record = Server(8, 4, max_model_len=40).run([], backend=FakeBackend(10), source=source).record(1)
    assert record.column("request").tolist() == list(range(8))
    assert statuses(record) == ["refused" if prompt == 90 else "finished" for prompt in prompts]
