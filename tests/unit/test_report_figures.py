"""The figures: that they show the numbers of the results, the same bytes every time, and nothing that overlaps."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from pagesim.errors import ConfigError
from pagesim.report import figures
from pagesim.report.hover import hover
from pagesim.report.over_time import _course
from pagesim.report.rows import Rows
from pagesim.report.style import PARTS, Look, inline_svg, save
from pagesim.results import Results
from tests import synthetic_results as synthetic

SIZES = [1, 8, 64]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return synthetic.write(tmp_path_factory.mktemp("plain") / "r", num_requests=120)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Results:
    rates = {synthetic.RATE: [0.25, 2.0, 0.5]}
    return synthetic.write(tmp_path_factory.mktemp("swept") / "r", sweep=rates, seeds=(0, 1), num_requests=120)


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory) -> Results:
    sizes = {synthetic.BLOCK_SIZE: SIZES}
    rows = ("paged", "ideal")
    return synthetic.write(tmp_path_factory.mktemp("sized") / "r", rows=rows, sweep=sizes, num_requests=120)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Results:
    rows = ("max", "paged", "cow", "ideal")
    return synthetic.write(tmp_path_factory.mktemp("shared") / "r", rows=rows, seeds=(0, 1, 2), num_requests=120)


@pytest.fixture(scope="module")
def shared_swept(tmp_path_factory: pytest.TempPathFactory) -> Results:
    rows, rates = ("max", "paged", "cow", "ideal"), {synthetic.RATE: [0.5, 1.0, 4.0]}
    out = tmp_path_factory.mktemp("shared-swept") / "r"
    return synthetic.write(out, rows=rows, sweep=rates, seeds=(0, 1), num_requests=120)


def xs(line: Any) -> Any:
    return np.asarray(line.get_xdata(), dtype=np.float64)


def ys(line: Any) -> Any:
    return np.asarray(line.get_ydata(), dtype=np.float64)


def band_of(area: Any, x: Any) -> tuple[Any, Any]:
    """Return the lower and the upper edge of a filled area at places along it."""
    [path] = area.get_paths()
    places: dict[float, list[float]] = {float(place): [] for place in x}
    for at, height in path.vertices:
        nearest = min(places, key=lambda place: abs(place - at))
        places[nearest].append(float(height))
    return np.array([min(found) for found in places.values()]), np.array([max(found) for found in places.values()])


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text() and text.get_visible()]


class TestWhatTheyShow:
    def test_memory_bars_are_the_summary(self, plain: Results) -> None:
        figure = figures.memory(plain)
        [axes] = figure.axes
        summary = plain.summary.set_index("allocator")
        for container in axes.containers:
            part = next(key for key, (label, _) in PARTS.items() if label == container.get_label())
            column = "utilization" if part == "live" else part
            widths = [patch.get_width() for patch in container]
            assert widths == pytest.approx((100 * summary[column]).tolist())
        assert [label.get_text() for label in axes.get_yticklabels()] == list(synthetic.PLAIN)

    def test_memory_can_be_drawn_from_a_summary_alone(self, plain: Results) -> None:
        assert texts(figures.memory(plain.summary)) == texts(figures.memory(plain))

    def test_memory_is_shown_at_the_highest_load(self, swept: Results) -> None:
        assert "Where the memory goes (rate 2)" in texts(figures.memory(swept))

    @pytest.mark.parametrize(("kind", "column", "factor"), [("utilization", "live", 100), ("batch", "running", 1)])
    def test_lines_over_time_are_the_timelines(self, plain: Results, kind: str, column: str, factor: float) -> None:
        [axes] = figures.draw(plain, kind).axes
        for line, name in zip(axes.lines, synthetic.PLAIN, strict=True):
            expected = factor * plain.timeline(f"{name}-seed0")[column]
            assert ys(line) == pytest.approx(expected.to_numpy())
        assert set(synthetic.PLAIN) <= set(texts(axes))

    def test_a_long_timeline_is_averaged_exactly(self, plain: Results, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pagesim.report.over_time.MAX_BINS", 50)
        [axes] = figures.utilization(plain).axes
        fine = plain.timeline("max-seed0")["live"].to_numpy()
        assert ys(axes.lines[0]) == pytest.approx(100 * fine.reshape(50, 4).mean(axis=1))

    def test_areas_over_time_have_a_panel_an_allocator(self, plain: Results) -> None:
        figure = figures.fragmentation(plain)
        titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
        assert titles == list(synthetic.PLAIN)

    @pytest.mark.parametrize(("kind", "column", "factor"), [("utilization", "live", 100), ("batch", "running", 1)])
    def test_lines_of_several_seeds_are_means_with_bands(
        self, shared: Results, kind: str, column: str, factor: float
    ) -> None:
        [axes] = figures.draw(shared, kind).axes
        bands = [band for band in axes.collections if band.get_paths()]
        assert len(bands) == len(axes.lines) == 4
        for line, band, name in zip(axes.lines, bands, ("max", "paged", "cow", "ideal"), strict=True):
            runs = [shared.timeline(f"{name}-seed{seed}") for seed in (0, 1, 2)]
            integrals = [float((run[column] * run["width_s"]).sum()) for run in runs]
            end = max(float((run["t_s"] + run["width_s"]).max()) for run in runs)
            x, y = xs(line), ys(line)
            width = end / len(x)
            assert x == pytest.approx(width * (np.arange(len(x)) + 0.5))
            assert (y * width).sum() == pytest.approx(factor * np.mean(integrals))  # nothing is lost on a new clock
            low, high = band_of(band, x)
            assert ((low <= y + 1e-9) & (y <= high + 1e-9)).all()
            assert (high * width).sum() >= factor * max(integrals) - 1e-9
            assert (low * width).sum() <= factor * min(integrals) + 1e-9
            assert (high > low).any()

    def test_two_seeds_of_known_bins(self) -> None:
        short = pd.DataFrame({"t_s": [0.0, 2.0], "width_s": [2.0, 2.0], "live": [0.5, 1.0], "free": [0.5, 0.0]})
        double = pd.DataFrame({"t_s": [0.0, 4.0], "width_s": [4.0, 4.0], "live": [0.2, 0.6], "free": [0.8, 0.4]})
        course = _course([short, double], ["live", "free"], 8)
        assert course.middle.tolist() == [2.0, 6.0]
        assert course.mean["live"] == pytest.approx([(0.75 + 0.2) / 2, 0.3])  # the short one has ended at 4 s
        assert course.least["live"] == pytest.approx([0.2, 0.0])
        assert course.most["live"] == pytest.approx([0.75, 0.6])
        assert course.mean["free"] == pytest.approx([(0.25 + 0.8) / 2, (1.0 + 0.4) / 2])
        assert (course.end, course.num_seeds) == (8.0, 2)

    def test_a_seed_can_be_asked_for(self, shared: Results) -> None:
        [axes] = figures.batch(shared, seed=1).axes
        assert not axes.collections
        assert ys(axes.lines[0]) == pytest.approx(shared.timeline("max-seed1")["running"].to_numpy())
        with pytest.raises(ConfigError, match="has no timeline to draw for seed 7"):
            figures.utilization(shared, seed=7)

    def test_areas_of_several_seeds_fill_the_pool_and_have_a_band(self, shared: Results) -> None:
        figure = figures.fragmentation(shared)
        for axes in (axes for axes in figure.axes if axes.get_visible()):
            *areas, band = axes.collections
            x = np.unique(np.asarray(areas[0].get_paths()[0].vertices)[:, 0])
            top = band_of(areas[-1], x)[1]
            assert top == pytest.approx(np.full(len(x), 100.0))
            edge = band_of(areas[0], x)[1]
            low, high = band_of(band, x)
            assert ((low <= edge + 1e-9) & (edge <= high + 1e-9)).all()
        [legend] = figure.legends
        assert [text.get_text() for text in legend.get_texts()][-1] == "range of live over seeds"

    def test_throughput_is_against_the_rate_in_its_order(self, swept: Results) -> None:
        left, right = figures.throughput(swept).axes
        rows = Rows.of(swept)
        line = next(line for line in left.lines if line.get_color() == Look(rows).colour("paged"))
        assert xs(line).tolist() == [0.25, 0.5, 2.0]
        points = {point.values[synthetic.RATE]: point for point in rows.points}
        means = [rows.mean(points[rate], "paged", "throughput_requests_per_s") for rate in (0.25, 0.5, 2.0)]
        assert ys(line) == pytest.approx(means)
        assert left.get_xlabel() == "arrival rate (requests/s)"
        assert right.get_yscale() == "log"
        assert "offered" in texts(left)

    def test_throughput_without_a_sweep_is_bars(self, plain: Results) -> None:
        left, _ = figures.throughput(plain).axes
        widths = [patch.get_width() for patch in left.patches if isinstance(patch, Rectangle)]
        assert widths == pytest.approx(plain.summary["throughput_output_tokens_per_s"].tolist())

    def test_values_that_are_no_numbers_are_places(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", sweep={"scheduler.policy": ["mixed", "chunked"]}, num_requests=40)
        left, _ = figures.throughput(results).axes
        assert [label.get_text() for label in left.get_xticklabels()] == ["mixed", "chunked"]

    def test_a_second_key_stays_at_the_highest_load(self, tmp_path: Path) -> None:
        sweep: dict[str, list[Any]] = {synthetic.RATE: [0.5, 1.0], synthetic.BLOCK_SIZE: [8, 16]}
        results = synthetic.write(tmp_path / "r", sweep=sweep, num_requests=40)
        figure = figures.throughput(results)
        assert "Throughput and latency (block_size 8)" in texts(figure)
        assert xs(figure.axes[0].lines[0]).tolist() == [0.5, 1.0]
        assert "What the block size changes (rate 1)" in texts(figures.blocks(results))

    def test_blocks_show_what_is_wasted(self, sized: Results) -> None:
        _, right = figures.blocks(sized).axes
        paged = sized.summary[sized.summary["allocator"] == "paged"]
        assert xs(right.lines[0]).tolist() == SIZES
        assert ys(right.lines[0]) == pytest.approx((100 * (paged["internal"] + paged["external"])).tolist())

    def test_latency_is_that_of_the_measured_requests(self, plain: Results) -> None:
        left, right = figures.latency(plain).axes
        requests = plain.requests("max-seed0")
        measured = requests[(requests["status"] == "finished") & (requests["measured"] == 1)]
        for axes, column in ((left, "ttft_s"), (right, "tpot_s")):
            x = xs(axes.lines[0])
            assert (x[0], x[-1]) == pytest.approx((measured[column].min(), measured[column].max()))
            assert x[98] == pytest.approx(np.quantile(measured[column].dropna(), ys(axes.lines[0])[98] / 100))

    def test_objectives_cross_the_distributions(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", rows=("max", "paged"), num_requests=60)
        file = results.folder / "experiment.yaml"
        file.write_text(f"{file.read_text()}slo: {{ttft: 2 s, tpot: 900 s}}\n")
        left, right = figures.latency(Results.load(results.folder)).axes
        [line] = [line for line in left.lines if line.get_label() == "_nolegend_"]
        assert xs(line).tolist() == [2.0, 2.0]
        assert "SLO: 2 s" in texts(left)
        assert not [text for text in texts(right) if "SLO" in text]  # far beyond every request

    def test_times_far_apart_are_on_a_logarithmic_axis(self, plain: Results, monkeypatch: pytest.MonkeyPatch) -> None:
        assert figures.latency(plain).axes[1].get_xscale() == "linear"
        read = Results.requests

        def slow(results: Results, run: str | None = None, names: Sequence[str] | None = None) -> pd.DataFrame:
            return read(results, run, names).assign(
                tpot_s=lambda frame: frame["tpot_s"] * (50 if run == "max-seed0" else 1)
            )

        monkeypatch.setattr(Results, "requests", slow)
        right = figures.latency(plain).axes[1]
        assert right.get_xscale() == "log"
        fastest = plain.requests("paged-seed0")["tpot_s"].min()
        assert right.get_xlim()[0] <= fastest


class TestLooks:
    @pytest.mark.parametrize("kind", list(figures.KINDS))
    def test_no_two_texts_overlap(
        self,
        kind: str,
        plain: Results,
        swept: Results,
        sized: Results,
        shared: Results,
        shared_swept: Results,
    ) -> None:
        everything = (plain, swept, sized, shared, shared_swept)
        assert any(kind in figures.sensible(results) for results in everything)
        for results in everything:
            if kind not in figures.sensible(results):
                continue
            figure = figures.draw(results, kind)
            boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in drawn_texts(figure)]
            for index, (first, box) in enumerate(boxes):
                clashes = [second for second, other in boxes[index + 1 :] if box.overlaps(other)]
                assert not clashes, f"{first!r} overlaps {clashes} in {results.folder}"
                outside = not (box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and -1 <= box.y0 <= figure.bbox.y1)
                assert not outside, f"{first!r} leaves the figure"

    @pytest.mark.parametrize("kind", [kind for kind in figures.KINDS if kind != "blocks"])
    @pytest.mark.parametrize("is_swept", [False, True])
    def test_long_names_and_dollars_are_written_and_stay_on_the_figure(
        self, kind: str, is_swept: bool, shared: Results, shared_swept: Results
    ) -> None:
        results = Results.load((shared_swept if is_swept else shared).folder)
        names = {"max": "reserve-" + "m" * 52, "paged": "$x_1$ & <b>$", "cow": "$\\frac$", "ideal": "ideal"}
        results.summary["allocator"] = results.summary["allocator"].map(names)
        figure = figures.draw(results, kind)
        shown = [text for text in drawn_texts(figure) if not text.get_text().isdigit()]
        words = {text.get_text() for text in shown}
        assert any("…mmm" in word and word.startswith("reserve-m") for word in words), words
        assert any(r"\$x_1\$ &" in word for word in words), words
        for text in shown:
            box = text.get_window_extent()
            assert box.x0 >= -1, text
            assert box.x1 <= figure.bbox.x1 + 1, text
        told = str(hover(figure))
        assert kind == "sharing" or "$x_1$ & <b>$" in told  # a bar of nothing has no place to point at
        assert r"\$" not in told.replace("$\\\\frac$", "")

    def test_rows_keep_their_colour_and_the_bound_is_grey(self, plain: Results, swept: Results) -> None:
        first, second = Look(Rows.of(plain)), Look(Rows.of(swept))
        colours = [first.colour(name) for name in synthetic.PLAIN]
        assert colours == [second.colour(name) for name in synthetic.PLAIN]
        assert len(set(colours)) == len(colours)
        assert first.line("ideal")["linestyle"] != "solid"

    def test_a_notebook_shows_them(self, plain: Results) -> None:
        figure: Any = figures.memory(plain)
        assert figure._repr_png_().startswith(b"\x89PNG")

    def test_the_users_own_settings_stay(self, plain: Results) -> None:
        before = dict(mpl.rcParams)
        figures.memory(plain)
        assert dict(mpl.rcParams) == before


class TestFiles:
    @pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
    def test_the_same_results_give_the_same_bytes(self, plain: Results, tmp_path: Path, ending: str) -> None:
        for name in ("one", "two"):
            figures.plot(Results.load(plain.folder), "latency", tmp_path / f"{name}.{ending}")
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()

    def test_all_that_make_sense_are_written(self, sized: Results, plain: Results, tmp_path: Path) -> None:
        kinds = [path.stem for path in figures.write_all(sized, tmp_path / "sized") if path.suffix == ".svg"]
        assert kinds == [kind for kind in figures.KINDS if kind != "sharing"]
        assert figures.sensible(plain) == [kind for kind in kinds if kind != "blocks"]
        for path in (tmp_path / "sized").glob("*.png"):
            assert path.read_bytes().startswith(b"\x89PNG")
        for path in (tmp_path / "sized").glob("*.svg"):
            assert ET.parse(path).getroot().tag.endswith("svg")

    def test_without_a_name_a_plot_goes_to_the_results(self, plain: Results) -> None:
        assert figures.plot(plain.folder, "batch") == plain.folder / "plots" / "batch.svg"
        assert (plain.folder / "plots" / "batch.svg").is_file()

    def test_an_inlined_figure_scales_and_follows_the_ink_of_the_page(self, plain: Results) -> None:
        text = inline_svg(figures.memory(plain), "memory")
        root = ET.fromstring(text)
        assert "width" not in root.attrib
        assert "viewBox" in root.attrib
        assert "currentColor" in text
        assert "var(--empty, #e6e6ea)" in text
        assert "var(--paper, #fefeff)" in text
        ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        assert ids
        assert all(name.startswith("memory-") for name in ids)
        links = [value[1:] for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
        assert links
        assert set(links) <= set(ids)

    @pytest.mark.parametrize(
        ("kind", "out", "problem"),
        [
            ("memry", None, "there is no figure 'memry'; did you mean 'memory'"),
            ("blocks", None, "a figure of block sizes needs a sweep over one"),
            ("memory", "x.jpg", "a figure ends in .svg, .png, .pdf"),
            ("memory", "file/x.svg", "cannot write"),
        ],
    )
    def test_bad_wishes_are_told(
        self, plain: Results, tmp_path: Path, kind: str, out: str | None, problem: str
    ) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=problem):
            figures.plot(plain, kind, tmp_path / out if out else None)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_results_without_a_run_have_nothing_to_draw(self, tmp_path: Path) -> None:
        results = synthetic.write(tmp_path / "r", rows=("max",), fail="max-seed0", num_requests=20)
        assert figures.write_all(results) == []
        with pytest.raises(ConfigError, match="no run of synthetic is done"):
            figures.plot(results, "memory")

    def test_saving_again_gives_the_same_file(self, plain: Results, tmp_path: Path) -> None:
        figure = figures.draw(plain, "throughput")
        first = save(figure, tmp_path / "a.svg").read_bytes()
        assert save(figure, tmp_path / "b.svg").read_bytes() == first


def test_the_module_of_figures_loads_matplotlib_only_to_draw() -> None:
    program = "import sys, pagesim.report.figures; sys.exit(any(m in sys.modules for m in ('matplotlib', 'seaborn')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def drawn_texts(figure: Any) -> list[Any]:
    """Return the texts that are drawn: an axis keeps labels of ticks that it does not show."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            shown = {id(tick) for tick in axis._update_ticks() if low <= tick.get_loc() <= high and axes.get_visible()}
            for tick in [*axis.majorTicks, *axis.minorTicks]:
                if id(tick) not in shown:
                    hidden |= {id(tick.label1), id(tick.label2)}
    found = figure.findobj(mpl.text.Text)
    return [text for text in found if text.get_text().strip() and text.get_visible() and id(text) not in hidden]
