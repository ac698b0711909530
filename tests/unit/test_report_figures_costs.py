"""The figures of costs and of knees: that bars, lines, rings and labels are the numbers of the summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from pagesim.errors import ConfigError
from pagesim.report import figures, page
from pagesim.report.costs import TIMES
from pagesim.report.knee import LIMIT, knee, knees
from pagesim.report.rows import Rows
from pagesim.report.style import Look
from pagesim.results import Results
from tests import synthetic_results as synthetic

RATES = [0.5, 1.0, 2.0, 4.0]
SHARES = {
    "time_weights": [0.5, 0.3, 0.2],
    "time_attention": [0.2, 0.2, 0.2],
    "time_prefill": [0.1, 0.1, 0.2],
    "time_recompute": [0.0, 0.1, 0.1],
    "time_copies": [0.05, 0.0, 0.1],
    "time_swaps": [0.0, 0.1, 0.1],
    "time_overhead": [0.05, 0.1, 0.05],
    "time_idle": [0.1, 0.1, 0.05],
}
NAMES = ("max", "paged", "ideal")


def summary(**columns: Sequence[float]) -> pd.DataFrame:
    """Return a summary of three rows without a sweep, with some columns changed."""
    count = len(NAMES)
    plain: dict[str, Any] = {
        "run": [f"{name}-seed0" for name in NAMES],
        "allocator": list(NAMES),
        "policy": ["contiguous", "paged", "ideal"],
        "seed": [0] * count,
        "utilization": [0.2, 0.9, 1.0],
        "sharing_saving": [0.0] * count,
        "share_of_ideal": [0.5, 0.9, 1.0],
        "preemptions_recompute": [0] * count,
        "preemptions_swap": [0] * count,
        "recomputed_tokens": [0] * count,
        "swapped_out_bytes": [0] * count,
        "swapped_in_bytes": [0] * count,
        "swap_stall_s": [0.0] * count,
        "copied_blocks": [0] * count,
    }
    return pd.DataFrame(plain | columns)


def along_rates(latencies: dict[str, list[float]]) -> pd.DataFrame:
    """Return a summary along the rates, with the latencies of each row."""
    policies = {"ideal": "ideal"}
    rows = [
        {
            "run": f"{name}-rate{rate}-seed0",
            "allocator": name,
            "policy": policies.get(name, "paged"),
            "seed": 0,
            synthetic.RATE: rate,
            "utilization": 0.5,
            "throughput_requests_per_s": rate,
            "normalized_latency_s_per_token": latency,
        }
        for rate, *values in zip(RATES, *latencies.values(), strict=True)
        for name, latency in zip(latencies, values, strict=True)
    ]
    return pd.DataFrame(rows)


def bar_values(axes: Any) -> list[float]:
    return [float(patch.get_width()) for patch in axes.patches if isinstance(patch, Rectangle)]


def texts(artist: Any) -> list[str]:
    return [text.get_text() for text in artist.findobj(mpl.text.Text) if text.get_text() and text.get_visible()]


def data_of(line: Any) -> list[float]:
    """Return the xs of a line, then its ys."""
    return [float(value) for values in line.get_data() for value in values]


def shown(figure: Any) -> list[Any]:
    return [axes for axes in figure.axes if axes.get_visible()]


def line_of(axes: Any, rows: Rows, name: str) -> list[float]:
    [line] = [line for line in axes.lines if line.get_label() == f"_{name}"]
    assert line.get_color() == Look(rows).colour(name)
    return [float(value) for value in line.get_ydata()]


class TestTime:
    def test_stacked_bars_are_the_shares_of_the_summary(self) -> None:
        figure = figures.time(summary(**SHARES))
        [axes] = figure.axes
        names = {label: column for column, (label, _) in TIMES.items()}
        ends = np.zeros(len(NAMES))
        seen = []
        for container in axes.containers:
            column = names[str(container.get_label())]
            seen.append(column)
            assert [bar.get_width() for bar in container] == pytest.approx([100 * share for share in SHARES[column]])
            assert [bar.get_x() for bar in container] == pytest.approx(ends.tolist())
            ends += [bar.get_width() for bar in container]
        assert seen == list(TIMES)
        assert ends == pytest.approx([100.0] * len(NAMES))
        assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)

    def test_the_legend_of_all_parts_stays_on_the_figure(self) -> None:
        figure = figures.time(summary(**SHARES))
        figure.draw_without_rendering()
        [legend] = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == [label for label, _ in TIMES.values()]
        assert legend.get_window_extent().x1 <= figure.bbox.x1

    def test_parts_that_nobody_has_are_left_out(self) -> None:
        [axes] = figures.time(summary(time_weights=[1.0, 0.5, 0.5], time_idle=[0.0, 0.5, 0.5])).axes
        assert [container.get_label() for container in axes.containers] == ["weights", "idle"]

    def test_colours_are_told_apart(self) -> None:
        assert len({colour for _, colour in TIMES.values()}) == len(TIMES)

    def test_results_without_times_are_told(self) -> None:
        with pytest.raises(ConfigError, match="needs the shares time_weights"):
            figures.time(summary())


class TestPreemption:
    SWAPPED = summary(
        preemptions_recompute=[0, 3, 4],
        preemptions_swap=[0, 2, 0],
        recomputed_tokens=[0, 1500, 700],
        swapped_out_bytes=[0, 3 * 2**30, 0],
        swapped_in_bytes=[0, 2**30, 0],
        swap_stall_s=[0.0, 1.25, 0.0],
    )

    def test_bars_are_counts_tokens_bytes_of_both_directions_and_the_stall(self) -> None:
        panels = {axes.get_xlabel(): bar_values(axes) for axes in shown(figures.preemption(self.SWAPPED))}
        assert panels == {
            "preemptions": [0, 5, 4],
            "recomputed tokens": [0, 1500, 700],
            "swapped out and in (GiB)": [0, 4, 0],
            "steps waited for swaps (s)": [0, 1.25, 0],
        }
        assert "1,500" in texts(figures.preemption(self.SWAPPED))

    def test_what_no_run_has_is_left_out(self) -> None:
        data = summary(preemptions_recompute=[0, 3, 4], recomputed_tokens=[0, 1500, 700])
        assert [axes.get_xlabel() for axes in shown(figures.preemption(data))] == ["preemptions", "recomputed tokens"]

    def test_against_a_sweep_lines_are_the_summary(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", sweep={synthetic.RATE: RATES}, num_requests=60)
        rows = Rows.of(results)
        axes, tokens = shown(figures.preemption(results))
        assert [axes.get_ylabel(), tokens.get_ylabel()] == ["preemptions", "recomputed tokens"]
        own = results.summary[results.summary["allocator"] == "paged"]
        assert line_of(axes, rows, "paged") == own["preemptions_recompute"].tolist()
        assert sum(line_of(axes, rows, "paged")) > 0

    def test_three_panels_hide_the_fourth(self) -> None:
        data = self.SWAPPED.assign(recomputed_tokens=0)
        figure = figures.preemption(data)
        assert len(figure.axes) == 4
        assert len(shown(figure)) == 3

    def test_without_preemptions_there_is_nothing_to_draw(self) -> None:
        with pytest.raises(ConfigError, match="no request of these results was preempted"):
            figures.preemption(summary())


class TestSharing:
    def test_bars_are_the_saving_and_the_copies(self) -> None:
        left, right = figures.sharing(summary(sharing_saving=[0.0, 0.45, 0.5], copied_blocks=[900, 20, 0])).axes
        assert bar_values(left) == pytest.approx([0, 45, 50])
        assert bar_values(right) == [900, 20, 0]

    def test_copies_are_left_out_where_none_are_made(self) -> None:
        [axes] = figures.sharing(summary(sharing_saving=[0.0, 0.45, 0.5])).axes
        assert axes.get_xlabel() == "blocks saved by sharing (%)"

    def test_where_nothing_is_shared_there_is_nothing_to_draw(self) -> None:
        with pytest.raises(ConfigError, match="needs blocks that are shared"):
            figures.sharing(summary())


class TestIdeal:
    def test_bars_are_the_shares_of_all_but_the_bound(self) -> None:
        [axes] = figures.ideal(summary()).axes
        assert bar_values(axes) == pytest.approx([50, 90])
        assert [label.get_text() for label in axes.get_yticklabels()] == ["max", "paged"]
        assert [line.get_xdata() for line in axes.lines if line.get_label() == "_nolegend_"] == [[100.0, 100.0]]

    def test_without_the_bound_there_is_nothing_to_draw(self) -> None:
        with pytest.raises(ConfigError, match="needs the row `ideal`"):
            figures.ideal(summary(share_of_ideal=[math.nan] * 3))


class TestKnee:
    def test_between_two_rates_the_logarithm_is_a_straight_line(self) -> None:
        assert knee([1, 2, 3], [0.01, 0.05, 0.2], 0.1) == pytest.approx(2.5)  # 0.1 is halfway from 0.05 to 0.2
        assert knee([1, 2], [0.01, 0.1], 0.1) == pytest.approx(2)

    def test_the_first_crossing_counts(self) -> None:
        assert knee([1, 2, 3, 4], [0.05, 0.2, 0.05, 0.3], 0.1) == pytest.approx(1.5)

    def test_beyond_and_below_the_sweep(self) -> None:
        assert knee([1, 2], [0.01, 0.02], 0.1) == math.inf
        assert math.isnan(knee([1, 2], [0.1, 0.2], 0.1))
        assert math.isnan(knee([1, 2], [math.nan, math.nan], 0.1))

    def test_rings_and_labels_are_the_knees(self) -> None:
        data = along_rates(
            {
                "max": [0.2, 0.3, 0.4, 0.5],
                "pow2": [0.025, 0.05, 0.2, 0.8],
                "paged": [0.02, 0.02, 0.025, 0.4],
                "ideal": [0.02, 0.02, 0.02, 0.05],
            }
        )
        rows = Rows.of(data)
        _, axes = figures.throughput(data).axes
        found = knees(rows, synthetic.RATE)
        assert found["pow2"] == pytest.approx(1.5)
        assert found["paged"] == pytest.approx(3.0)
        rings = [line for line in axes.lines if line.get_label() == "_nolegend_" and line.get_markersize() == 10]
        places = {ring.get_color(): tuple(data_of(ring)) for ring in rings}
        look = Look(rows)
        assert places == {look.colour(name): (found[name], LIMIT) for name in ("pow2", "paged")}
        labels = {"max: knee < 0.5", "pow2: knee 1.5", "paged: knee 3", "ideal: knee > 4", "limit: 0.1 s/token"}
        assert labels <= set(texts(axes))

    def test_where_nobody_gives_up_no_limit_is_drawn(self) -> None:
        _, axes = figures.throughput(along_rates({"paged": [0.02] * 4, "ideal": [0.02] * 4})).axes
        assert not [text for text in texts(axes) if "limit" in text or "knee" in text]
        assert not [line for line in axes.lines if line.get_label() == "_nolegend_"]

    @pytest.mark.parametrize(("slo", "label"), [("{tpot: 200 ms}", "SLO: TPOT 0.2 s"), ("{ttft: 2 s}", None)])
    def test_the_objective_of_the_experiment_is_a_line(self, tmp_path: Path, slo: str, label: str | None) -> None:
        results = synthetic.write(tmp_path / "r", sweep={synthetic.RATE: RATES}, num_requests=60)
        file = results.folder / "experiment.yaml"
        file.write_text(f"{file.read_text()}slo: {slo}\n")
        _, axes = figures.throughput(Results.load(results.folder)).axes
        assert [text for text in texts(axes) if text.startswith("SLO")] == ([label] if label else [])
        across = [data_of(line) for line in axes.lines if line.get_label() == "_nolegend_"]
        assert ([0.0, 1.0, 0.2, 0.2] in across) == (label is not None)


class TestLooks:
    def test_labels_of_knees_and_lines_do_not_overlap(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", sweep={synthetic.RATE: RATES}, num_requests=60)
        file = results.folder / "experiment.yaml"
        file.write_text(f"{file.read_text()}slo: {{tpot: 110 ms}}\n")
        figure = figures.draw(Results.load(results.folder), "throughput")
        right = figure.axes[1]
        boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in right.texts]
        assert {"SLO: TPOT 0.11 s", "limit: 0.1 s/token"} <= {text for text, _ in boxes}
        for index, (text, box) in enumerate(boxes):
            assert box.x1 <= figure.bbox.x1, text
            assert not [other for other, second in boxes[index + 1 :] if box.overlaps(second)], text

    def test_the_same_results_give_the_same_bytes(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", sweep={synthetic.RATE: RATES}, num_requests=60)
        for kind in ("preemption", "throughput", "ideal"):
            first, second = (figures.plot(results.folder, kind, tmp_path / f"{n}.svg").read_bytes() for n in "ab")
            assert first == second


class TestWhichMakeSense:
    def test_a_figure_is_drawn_only_where_it_says_something(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", num_requests=40)
        assert "sharing" not in figures.sensible(results)
        assert "time" in figures.sensible(results)
        results.summary[list(TIMES)] = 0.0
        assert "time" not in figures.sensible(results)
        results.summary["sharing_saving"] = 0.2
        results.summary["share_of_ideal"] = 0.996
        assert "sharing" in figures.sensible(results)
        assert "ideal" not in figures.sensible(results)
        results.summary["share_of_ideal"] = 0.9
        assert "ideal" in figures.sensible(results)

    def test_every_kind_has_a_caption_and_the_limit_of_the_knee_is_stated(self) -> None:
        assert list(page.CAPTIONS) == list(figures.KINDS)
        assert f"stays below {LIMIT:g} s/token" in page.CAPTIONS["throughput"]
