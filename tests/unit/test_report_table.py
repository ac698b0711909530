"""The comparison table: figures, marks, notes and the verdict, from known numbers."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pagesim.report.cells import decimals, tables
from pagesim.report.notes import listed, notes
from pagesim.report.rows import Rows, axis_label
from pagesim.report.table import render, to_markdown
from pagesim.report.verdict import verdict
from pagesim.results import Results
from pagesim.results.columns import FIGURES, IDENTITY
from tests import synthetic_results as synthetic

RATE = synthetic.RATE


def summary(*rows: dict[str, Any], sweep: str | None = None) -> pd.DataFrame:
    """Return a summary with plain figures where a row gives none."""
    plain: dict[str, Any] = {name: 0.0 if kind is float else 0 for name, kind in FIGURES.items() if kind is not str}
    plain |= {"limited_by": "memory", "free": 1.0, "throughput_output_tokens_per_s": 100.0, "finished": 10}
    plain |= {"mean_batched_requests": 2.0, "normalized_latency_s_per_token": 0.5, "external_index": None}
    columns = [*IDENTITY, *([sweep] if sweep else []), *FIGURES]
    found = []
    for number, row in enumerate(rows):
        identity = {"run": f"run{number}", "policy": "paged", "backend": "cost_model", "seed": 0}
        found.append({**identity, **plain, **row})
    frame = pd.DataFrame(found)
    return frame[[*columns, *(name for name in frame if name not in columns)]]


def shown(source: Results | pd.DataFrame | Rows, width: int = 120) -> str:
    stream = StringIO()
    render(source, Console(file=stream, width=width))
    return stream.getvalue()


def cell(frame: pd.DataFrame, head: str, name: str, point: int = 0) -> str:
    for table in tables(Rows(frame)):
        for column in table.columns:
            if column.head == head:
                return str(column.cells[point, name])
    raise AssertionError(f"no column {head}")


class TestCells:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([7.0, 30.42], 2),
            ([208.0, 255.0], 0),
            ([0.0274, 5.893], 4),
            ([0.0373, 615.1], 2),
            ([27.0, 419.0], 1),
            ([123456.0], 0),
            ([0.0, float("nan")], 0),
            ([], 0),
        ],
    )
    def test_decimals_show_three_digits_of_the_smallest_and_five_of_the_largest(
        self, values: list[float], expected: int
    ) -> None:
        assert decimals(values) == expected

    def test_shares_are_in_per_cent_and_short_times_in_milliseconds(self) -> None:
        frame = summary({"allocator": "a", "utilization": 0.2041, "tpot_mean_s": 0.0325, "ttft_p50_s": 2.0})
        assert cell(frame, "live", "a") == "20.4"
        assert cell(frame, "TPOT", "a") == "32.5"
        assert "TPOT" in shown(frame)
        units = {column.head: column.unit for table in tables(Rows(frame)) for column in table.columns}
        assert (units["TPOT"], units["TTFT p50"], units["TTFT p99"], units["live"]) == ("ms", "s", "s", "%")

    def test_the_best_is_marked_unless_all_are_equal(self) -> None:
        frame = summary(
            {"allocator": "a", "throughput_output_tokens_per_s": 100.0, "tpot_mean_s": 0.02},
            {"allocator": "b", "throughput_output_tokens_per_s": 200.0, "tpot_mean_s": 0.03},
        )
        assert (cell(frame, "output", "a"), cell(frame, "output", "b")) == ("100", "200*")
        assert (cell(frame, "TPOT", "a"), cell(frame, "TPOT", "b")) == ("20.0*", "30.0")
        assert (cell(frame, "batched", "a"), cell(frame, "batched", "b")) == ("2.00", "2.00")

    def test_where_blocks_are_shared_more_live_slots_are_not_better(self) -> None:
        rows = ({"allocator": "a", "utilization": 0.7}, {"allocator": "b", "utilization": 0.2, "sharing_saving": 0.6})
        assert [cell(summary(*rows), "live", name) for name in "ab"] == ["70.0", "20.0"]
        rows[1]["sharing_saving"] = 0.0
        assert [cell(summary(*rows), "live", name) for name in "ab"] == ["70.0*", "20.0"]

    def test_neither_the_bound_nor_who_knows_the_future_is_the_best(self) -> None:
        frame = summary(
            {"allocator": "a", "throughput_output_tokens_per_s": 100.0, "oracle": False},
            {"allocator": "b", "throughput_output_tokens_per_s": 110.0, "oracle": False},
            {"allocator": "seer", "throughput_output_tokens_per_s": 200.0, "oracle": True},
            {"allocator": "ideal", "policy": "ideal", "throughput_output_tokens_per_s": 300.0, "oracle": True},
        )
        assert [cell(frame, "output", name) for name in ("a", "b", "seer", "ideal")] == ["100", "110*", "200", "300"]
        text = shown(frame)
        assert "seer †" in text
        assert "ideal †" not in text

    def test_ratios_are_to_the_baseline(self) -> None:
        frame = summary(
            {"allocator": "a", "throughput_output_tokens_per_s": 100.0},
            {"allocator": "b", "throughput_output_tokens_per_s": 430.0},
        )
        assert (cell(frame, "ratio", "a"), cell(frame, "ratio", "b")) == ("1.00", "4.30")
        rows = Rows(frame, baseline="b")
        [ratio] = [column for table in tables(rows) for column in table.columns if column.head == "ratio"]
        assert (ratio.unit, str(ratio.cells[0, "a"])) == ("to b", "0.23")

    def test_several_seeds_give_mean_deviation_and_interval(self) -> None:
        frame = summary(
            {"allocator": "a", "seed": 0, "throughput_output_tokens_per_s": 100.0},
            {"allocator": "a", "seed": 1, "throughput_output_tokens_per_s": 140.0},
            {"allocator": "b", "seed": 0, "throughput_output_tokens_per_s": 200.0},
            {"allocator": "b", "seed": 1, "throughput_output_tokens_per_s": 280.0},
        )
        assert cell(frame, "output", "a") == "120 ±28"
        assert cell(frame, "95 %", "b") == "2.00 to 2.00"
        assert cell(frame, "ratio", "b") == "2.00"

    def test_a_row_without_a_figure_shows_that_it_has_none(self) -> None:
        frame = summary({"allocator": "a", "ttft_p50_s": None}, {"allocator": "b", "ttft_p50_s": 1.0})
        assert cell(frame, "TTFT p50", "a") == "-"

    def test_counts_that_are_0_everywhere_have_no_column(self) -> None:
        heads = [column.head for table in tables(Rows(summary({"allocator": "a"}))) for column in table.columns]
        assert "refused" not in heads
        assert "cached" not in heads
        assert "preempted" in heads
        frame = summary({"allocator": "a", "refused": 3}, {"allocator": "b"})
        assert (cell(frame, "refused", "a"), cell(frame, "refused", "b")) == ("3", "0")

    def test_preemptions_of_both_kinds_are_added(self) -> None:
        frame = summary({"allocator": "a", "preemptions_recompute": 3, "preemptions_swap": 4})
        assert cell(frame, "preempted", "a") == "7"

    def test_what_limits_is_named_with_its_share(self) -> None:
        frame = summary({"allocator": "a", "limited_by": "sequences", "limited_sequences": 0.834})
        assert cell(frame, "limited by", "a") == "sequences 83 %"
        assert cell(summary({"allocator": "a"}), "limited by", "a") == "memory"


class TestSweeps:
    def test_rows_are_grouped_by_point(self) -> None:
        frame = summary(
            *({"allocator": name, RATE: rate} for rate in (0.5, 2.0) for name in ("a", "b")),
            sweep=RATE,
        )
        table = tables(Rows(frame))[0]
        assert [(group.heading, [line.label for line in group.lines]) for group in table.groups] == [
            ("rate 0.5", ["a", "b"]),
            ("rate 2", ["a", "b"]),
        ]

    def test_the_points_of_the_only_allocator_are_compared(self) -> None:
        key = "allocators.*.block_size"
        frame = summary(
            *(
                {"allocator": name, "policy": policy, key: size, "throughput_output_tokens_per_s": 100.0 + size}
                for size in (8, 16)
                for name, policy in (("paged", "paged"), ("ideal", "ideal"))
            ),
            sweep=key,
        )
        table = tables(Rows(frame))[1]
        assert [(group.heading, [line.label for line in group.lines]) for group in table.groups] == [
            ("paged", ["block_size 8", "block_size 16"]),
            ("ideal", ["block_size 8", "block_size 16"]),
        ]
        assert (cell(frame, "output", "paged", 0), cell(frame, "output", "paged", 1)) == ("108", "116*")
        assert verdict(Rows(frame)) == (
            "paged serves most at block_size 16: 1.07x the output tokens/s that it serves at block_size 8, the least."
        )

    def test_more_load_is_not_called_better(self) -> None:
        frame = summary(
            *(
                {"allocator": "paged", RATE: rate, "throughput_output_tokens_per_s": 100 * rate, "internal": 0.25}
                for rate in (1.0, 2.0)
            ),
            sweep=RATE,
        )
        assert cell(frame, "output", "paged", 1) == "200"
        assert verdict(Rows(frame)) == (
            "At rate 2, paged serves 200 output tokens/s; "
            "25 % of the memory of paged is held for tokens that never come."
        )

    def test_a_row_that_is_missing_at_a_point_is_left_out_there(self) -> None:
        frame = summary(
            {"allocator": "a", RATE: 1.0}, {"allocator": "b", RATE: 1.0}, {"allocator": "b", RATE: 2.0}, sweep=RATE
        )
        table = tables(Rows(frame))[0]
        assert [len(group.lines) for group in table.groups] == [2, 1]
        assert "rate 2" in shown(frame)

    def test_the_heaviest_point_is_the_one_with_the_most_load(self) -> None:
        frame = summary({"allocator": "a", RATE: 2.0}, {"allocator": "a", RATE: 0.5}, sweep=RATE)
        assert Rows(frame).heaviest.values == {RATE: 2.0}
        key = "scheduler.max_num_seqs"
        frame = summary(
            {"allocator": "a", key: 64, "mean_waiting_requests": 9.0},
            {"allocator": "a", key: 256, "mean_waiting_requests": 1.0},
            sweep=key,
        )
        assert Rows(frame).heaviest.values == {key: 64}

    def test_known_keys_have_a_label_with_a_unit(self) -> None:
        assert axis_label(RATE) == "arrival rate (requests/s)"
        assert axis_label("allocators.paged.block_size") == "block size (tokens)"
        assert axis_label("scheduler.max_num_seqs") == "scheduler.max_num_seqs"


class TestText:
    def test_it_fits_its_width_and_is_aligned(self, tmp_path: Path) -> None:
        results = synthetic.write(
            tmp_path / "r", sweep={RATE: [0.4, 1.6]}, seeds=(0, 1, 2), refuse={"max": 3}, num_requests=150
        )
        lines = shown(results).splitlines()
        assert max(map(len, lines)) <= 120
        assert not [line for line in lines if line != line.rstrip()]
        start = lines.index("Memory: shares of the pool over time")
        ends = {lines[row].index("±") for row in range(start + 4, start + 9)}
        assert len(ends) == 1
        assert "\x1b" not in shown(results)

    def test_a_narrow_terminal_gets_more_tables(self) -> None:
        frame = summary({"allocator": "a"}, {"allocator": "b", "throughput_output_tokens_per_s": 50.0})
        stream = StringIO()
        render(frame, Console(file=stream, width=60, force_terminal=True, no_color=True, legacy_windows=False))
        assert "(continued)" in stream.getvalue()
        assert "(continued)" not in shown(frame)

    def test_a_terminal_shows_the_best_in_bold(self) -> None:
        frame = summary({"allocator": "a"}, {"allocator": "b", "throughput_output_tokens_per_s": 50.0})
        stream = StringIO()
        render(frame, Console(file=stream, width=120, force_terminal=True, color_system="standard"))
        assert re.search(r"\x1b\[1m +100\.0\*\x1b\[0m", stream.getvalue())

    def test_long_names_are_shortened_and_markup_is_shown_as_it_is(self) -> None:
        frame = summary({"allocator": "n" * 60}, {"allocator": "[bold]x[/bold]"})
        text = shown(frame)
        assert "n" * 27 + "…" in text
        assert "[bold]x[/bold]" in text

    def test_no_run_gives_a_sentence(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", rows=("max",), fail="max-seed0", num_requests=20)
        assert shown(results) == "No run is done: there is nothing to compare.\n"

    def test_markdown_has_the_same_figures(self) -> None:
        frame = summary(
            {"allocator": "a|b", "utilization": 0.25},
            {"allocator": "c", "utilization": 0.5},
        )
        lines = to_markdown(frame).splitlines()
        assert lines[0] == "**Memory: shares of the pool over time**"
        assert (
            lines[2] == "| allocator | live % | reserved % | internal % | external % | free % "
            "| batched requests | limited by share of time |"
        )
        assert lines[3] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
        assert lines[4] == "| a\\|b | 25.0 | 0.0 | 0.0 | 0.0 | 100.0 | 2.00 | memory |"
        assert lines[5].startswith("| c | **50.0*** |")


class TestVerdict:
    def test_it_compares_the_best_with_the_baseline(self) -> None:
        frame = summary(
            {"allocator": "max", "mean_batched_requests": 7.0, "internal": 0.573, "external": 0.089},
            {"allocator": "paged", "mean_batched_requests": 30.1, "throughput_output_tokens_per_s": 250.0},
        )
        assert verdict(Rows(frame)) == (
            "paged serves 2.50x the output tokens/s of max and batches 4.30x the requests; "
            "57 % of the memory of max is held for tokens that never come and 9 % cannot be handed out."
        )

    def test_a_smaller_batch_is_no_merit(self) -> None:
        frame = summary(
            {"allocator": "paged", "mean_batched_requests": 6.0},
            {"allocator": "cow", "mean_batched_requests": 2.0, "throughput_output_tokens_per_s": 113.0},
        )
        assert verdict(Rows(frame)) == "cow serves 1.13x the output tokens/s of paged."

    def test_equal_service_is_told_by_its_latency(self) -> None:
        frame = summary({"allocator": "max"}, {"allocator": "paged", "normalized_latency_s_per_token": 0.1})
        assert verdict(Rows(frame)) == "paged serves as much as max, at 0.20x its normalized latency."

    def test_a_baseline_that_serves_most_is_said_so(self) -> None:
        frame = summary({"allocator": "max"}, {"allocator": "paged", "throughput_output_tokens_per_s": 80.0})
        assert verdict(Rows(frame)) == ("None serves more than max; paged comes next with 0.80x its output tokens/s.")

    def test_seeds_that_do_not_tell_it_from_one_are_said_so(self) -> None:
        frame = summary(
            *({"allocator": "a", "seed": seed, "throughput_output_tokens_per_s": 100.0} for seed in range(4)),
            *(
                {"allocator": "b", "seed": seed, "throughput_output_tokens_per_s": value}
                for seed, value in enumerate((60.0, 70.0, 150.0, 200.0))
            ),
        )
        assert "the seeds do not tell it from 1" in verdict(Rows(frame))

    def test_a_baseline_without_a_result_is_said_so(self) -> None:
        frame = summary({"allocator": "a", "throughput_output_tokens_per_s": 0.0}, {"allocator": "b"})
        assert verdict(Rows(frame)) == "The baseline a has no result to compare with."


class TestNotes:
    def test_refusals_are_counted_by_reason(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", rows=("max", "paged"), refuse={"max": 12}, num_requests=100)
        rows = Rows.of(results)
        found = notes(results, rows)
        assert "max refused 12 of 100 requests: outgrew the pool" in found
        assert any(note.startswith("rows finished different requests") for note in found)
        assert any("over the 88 requests that every row finished" in note for note in found)

    def test_overload_is_told_with_its_points(self) -> None:
        frame = summary(
            {"allocator": "a", RATE: 1.0, "overloaded": False},
            {"allocator": "a", RATE: 2.0, "overloaded": True},
            sweep=RATE,
        )
        assert "overloaded (the queue grew over the window, so latencies depend on its length): a at rate 2" in notes(
            frame, Rows(frame)
        )

    def test_a_window_that_could_not_be_had_is_told(self) -> None:
        frame = summary({"allocator": "a", "window": "all"}, {"allocator": "b", "window": "steady"})
        told = "no steady part could be measured; figures are over the whole run of run0"
        assert told in notes(frame, Rows(frame, window="steady"))
        both = summary({"allocator": "a", "window": "all"})
        assert "figures are over the whole run" in notes(both, Rows(both, window="all"))

    def test_requests_that_were_cut_off_are_told(self) -> None:
        frame = summary({"allocator": "a", "unfinished": 5}, {"allocator": "b"})
        assert "requests that had not finished when the run was cut off: a 5" in notes(frame, Rows(frame))

    def test_counts_are_those_of_the_table_over_seeds(self, tmp_path: Path) -> None:
        frame = summary(
            *({"allocator": "a", "seed": seed, "unfinished": cut} for seed, cut in enumerate((5, 8))),
            *({"allocator": "b", "seed": seed, "refused": 3 + seed} for seed in range(2)),
        )
        assert (cell(frame, "unfinished", "a"), cell(frame, "refused", "b")) == ("6.50", "3.50")
        assert [note for note in notes(frame, Rows(frame)) if "requests" in note and "cut off" in note] == [
            "requests that had not finished when the run was cut off (mean over 2 seeds): a 6.50"
        ]
        [refused] = [note for note in notes(frame, Rows(frame)) if note.startswith("b refused")]
        assert refused.startswith("b refused 3.50 of ")
        results = synthetic.write(
            tmp_path / "r", rows=("max",), refuse={"max": 9}, seeds=(0, 1, 2), num_requests=30, fail="max-seed2"
        )
        assert cell(results.summary, "refused", "max") == "9"
        told = notes(results, Rows.of(results))
        assert "max refused 9 of 30 requests (mean over 2 seeds): outgrew the pool" in told

    def test_counts_are_told_point_by_point(self) -> None:
        frame = summary(
            {"allocator": "a", RATE: 1.0, "unfinished": 1},
            {"allocator": "a", RATE: 2.0, "unfinished": 30, "refused": 2, "finished": 68},
            sweep=RATE,
        )
        told = notes(frame, Rows(frame))
        assert "requests that had not finished when the run was cut off: a 1 at rate 1; a 30 at rate 2" in told
        assert "a refused 2 of 100 requests at rate 2" in told

    def test_reasons_have_their_shares_where_there_are_several(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", rows=("max",), refuse={"max": 8}, num_requests=100)
        path = results.folder / "runs/max-seed0/requests.parquet"
        requests = pd.read_parquet(path)
        requests.loc[:1, "reason"] = "is longer than max_model_len"
        requests.to_parquet(path)
        assert "max refused 8 of 100 requests: 75 % outgrew the pool; 25 % is longer than max_model_len" in notes(
            results, Rows.of(results)
        )

    def test_more_than_ideal_is_explained(self) -> None:
        frame = summary({"allocator": "a", "share_of_ideal": 1.02}, {"allocator": "b", "share_of_ideal": 1.004})
        assert [note.split(":")[0] for note in notes(frame, Rows(frame)) if "ideal" in note] == [
            "a above 100 % of ideal"
        ]

    def test_failed_runs_are_told(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", rows=("max", "paged"), fail="max-seed0", num_requests=20)
        assert notes(results, Rows.of(results))[0] == (
            "run max-seed0 failed: the policy raised ZeroDivisionError (mine.py:7)"
        )

    def test_lists_are_for_people(self) -> None:
        assert listed(["a"]) == "a"
        assert listed(["a", "b", "c"]) == "a, b and c"
        assert listed(list("abcdefgh"), most=2) == "a, b and 6 more"


def test_a_lost_experiment_file_does_not_hide_the_figures(tmp_path: Path) -> None:
    results = synthetic.write(tmp_path / "r", rows=("max", "paged"), num_requests=50)
    (results.folder / "experiment.yaml").unlink()
    again = Results.load(results.folder)
    assert "paged" in shown(again)
    assert Rows.of(again).baseline == "max"
    assert np.isfinite(Rows.of(again).mean(Rows.of(again).points[0], "max", "utilization"))
