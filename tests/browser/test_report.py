"""The page in a browser: it opens from disk with the network off, and what moves on it works."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pagesim
from pagesim.report import figures, page
from pagesim.report.memory_view import COUNTED, MAX_BYTES
from pagesim.results import Results, files, layout
from tests import synthetic_results as synthetic
from tests.browser.chromium import Browser

REFERENCE = Path(__file__).parent / "reference"
EXPERIMENT: dict[str, Any] = {
    "name": "browser",
    "question": "What does a page of a small run look like?",
    "model": "opt-13b",
    "device": "a100-40gb",
    "memory": {"kv_cache": "1 GiB"},
    "workload": {
        "num_requests": 120,
        "arrivals": {"process": "poisson", "rate": 3.0},
        "lengths": {
            "prompt": {"distribution": "uniform", "low": 16, "high": 160},
            "output": {"distribution": "uniform", "low": 4, "high": 120},
        },
        "sampling": {"n": 2},
    },
    "scheduler": {"max_num_seqs": 64, "max_num_batched_tokens": 512, "max_model_len": 320},
    "allocators": {
        "max": {"policy": "contiguous", "reserve": "max"},
        "paged": {"policy": "paged"},
        "cow": {"policy": "copy_on_write"},
    },
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return pagesim.run(EXPERIMENT, out=tmp_path_factory.mktemp("browser") / "r", report=True)


@pytest.fixture
def opened(browser: Browser, results: Results) -> Browser:
    browser.open(results.folder / "report.html")
    browser.wait_for("document.getElementById('memory-view').dataset.ready === 'true'")
    return browser


def small(picture: bytes, width: int = 40, height: int = 60) -> NDArray[np.float64]:
    """Return a picture in grey, so small that fonts make no difference; shape (height, width), 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L").resize((width, height)), np.float64)


def test_it_opens_from_disk_without_a_network_and_without_an_error(opened: Browser, results: Results) -> None:
    assert opened.errors == []
    assert [url for url in opened.requests if not url.startswith(("file:", "blob:", "data:"))] == []
    assert opened.evaluate("document.title") == "browser - pagesim"
    assert opened.evaluate("document.querySelectorAll('figure svg').length") == len(figures.sensible(results)) > 6
    assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert (results.folder / "report.html").stat().st_size < 8 * 2**20


def test_the_slider_moves_all_pools_together(opened: Browser) -> None:
    def state() -> list[Any]:
        found: list[Any] = opened.evaluate(
            "[...document.querySelectorAll('#memory-view .pool')].map((pool) => [pool.querySelector('.running b')"
            ".textContent, pool.querySelector('.account').textContent, pool.querySelector('canvas').toDataURL()])"
        )
        return found

    before = state()
    assert len(before) == 4
    assert len({drawing for _, _, drawing in before}) == 4
    opened.evaluate("document.querySelector('#memory-view input').focus()")
    for _ in range(5):
        opened.press("ArrowRight", 39)
    after = state()
    assert all(one[2] != other[2] for one, other in zip(before, after, strict=True))
    opened.press("End", 35)
    assert [text for _, text, _ in state()].count("all requests have ended") == 3  # max takes the longest
    assert opened.errors == []


def test_the_counts_beside_a_pool_are_those_of_the_snapshot(opened: Browser, results: Results) -> None:
    import pyarrow.parquet as pq

    opened.evaluate(
        "(() => { const slider = document.querySelector('#memory-view input'); slider.value = 20;"
        "slider.dispatchEvent(new Event('input')); })()"
    )
    view = opened.evaluate("JSON.parse(document.getElementById('memory-data').textContent)")
    time = view["times"][20]
    for place, name in enumerate(["max", "paged", "cow", "ideal"]):
        table = pq.read_table(results.folder / f"runs/{name}-seed0/memory.parquet").to_pandas()
        row = table[table["t_s"] <= time].iloc[-1]
        pool = f"document.querySelectorAll('#memory-view .pool')[{place}]"
        shown = {
            queue: opened.evaluate(f"{pool}.querySelector('.{queue} b').textContent")
            for queue in ("running", "waiting")
        }
        assert shown == {"running": str(row["running"]), "waiting": str(row["waiting"])}
        assert opened.evaluate(f"{pool}.querySelector('h3').textContent") == name
        share = 100 * row["live_slots"] / row["num_slots"]
        assert opened.evaluate(f"{pool}.querySelector('.account').textContent").startswith(f"live {share:.0f}\u00a0%")


def test_the_run_plays_and_pauses(opened: Browser) -> None:
    opened.evaluate("document.querySelector('#memory-view button').click()")
    start = int(opened.evaluate("Number(document.querySelector('#memory-view input').value)"))
    opened.wait_for(f"Number(document.querySelector('#memory-view input').value) > {start + 2}")
    assert opened.evaluate("document.querySelector('#memory-view button').textContent") == "Pause"
    opened.evaluate("document.querySelector('#memory-view button').click()")
    assert opened.evaluate("document.querySelector('#memory-view button').textContent") == "Play"


def test_pointing_at_a_cell_says_whose_it_is(opened: Browser) -> None:
    box = opened.evaluate(
        "(() => { const canvas = document.querySelector('#memory-view canvas');"
        "canvas.scrollIntoView({block: 'center'}); const box = canvas.getBoundingClientRect();"
        "return [box.left, box.top]; })()"
    )
    opened.point_at(box[0] + 3, box[1] + 3)
    said = opened.evaluate("document.querySelector('#memory-view .cell').textContent")
    assert said.startswith("slot 0: stored")
    assert ", request " in said
    opened.point_at(2, 2)
    opened.wait_for("document.querySelector('#memory-view .cell').textContent === ''")


def test_the_arrow_keys_walk_over_a_pool(opened: Browser) -> None:
    opened.evaluate("document.querySelector('#memory-view canvas').focus()")
    said = "document.querySelector('#memory-view .cell').textContent"
    opened.press("ArrowRight", 39)
    assert opened.evaluate(said).startswith("slot 0: stored")
    opened.press("ArrowRight", 39)
    assert opened.evaluate(said).startswith("slot 1: stored")
    opened.press("ArrowDown", 40)
    below = int(opened.evaluate(said).split(":")[0].removeprefix("slot "))
    opened.press("ArrowUp", 38)
    assert opened.evaluate(said).startswith("slot 1: stored")
    assert below > 8
    opened.press("ArrowLeft", 37)
    opened.press("ArrowLeft", 37)
    assert opened.evaluate(said).startswith("slot 0: stored")  # there is none before it
    opened.press("End", 35)
    assert opened.evaluate(said).startswith("slot 1309: ")
    opened.evaluate("document.activeElement.blur()")
    assert opened.evaluate(said) == ""
    assert opened.errors == []


def test_everything_that_moves_can_be_reached_by_the_keyboard(opened: Browser) -> None:
    reached = set()
    wanted = opened.evaluate(
        "document.querySelectorAll('thead button, .controls button, .controls input, canvas, summary').length"
    )
    for _ in range(wanted + 12):
        opened.press("Tab", 9)
        reached.add(
            opened.evaluate(
                "(() => { const all = [...document.querySelectorAll('thead button, .controls button, .controls input,"
                "canvas, summary')]; return all.indexOf(document.activeElement); })()"
            )
        )
    assert reached >= set(range(wanted))
    table = "document.querySelector('table.sortable')"
    opened.evaluate(f"{table}.tHead.rows[0].cells[1].querySelector('button').focus()")
    opened.press("\r", 13)
    assert opened.evaluate(f"{table}.tHead.rows[0].cells[1].getAttribute('aria-sort')") == "descending"


@pytest.mark.parametrize("dark", [False, True])
def test_on_paper_it_is_light_open_and_without_controls(browser: Browser, results: Results, dark: bool) -> None:
    browser.open(results.folder / "report.html", dark=dark, width=720)
    browser.wait_for("document.getElementById('memory-view').dataset.ready === 'true'")
    browser.print_media(dark)
    visible = "[...document.querySelectorAll('{}')].filter((element) => element.checkVisibility()).length"
    assert browser.evaluate(visible.format(".controls button, .controls input, .hint")) == 0
    assert browser.evaluate(visible.format("details pre")) == 1  # the experiment, not the manifest
    assert browser.evaluate(visible.format("figure svg, canvas, table, .verdict")) > 12
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    free = browser.evaluate(
        "(() => { const canvas = document.querySelectorAll('canvas')[1], context = canvas.getContext('2d');"
        "const data = context.getImageData(0, 0, canvas.width, canvas.height).data; let sum = 0, count = 0;"
        "for (let at = 0; at < data.length; at += 4) if (data[at + 3]) { sum += data[at] + data[at + 1] + data[at + 2];"
        "count += 3; } return sum / count; })()"
    )
    assert free > 140  # the pool of a dark page is below 100
    browser.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert not browser.evaluate("[...document.querySelectorAll('details')].some((element) => element.open)")
    assert browser.pdf().startswith(b"%PDF-")
    assert browser.errors == []


def test_markup_in_names_does_nothing(browser: Browser, tmp_path: Path) -> None:
    evil = "<img src=x onerror=\"document.title='caught'\"><script>document.title='caught'</script></script>"
    results = synthetic.write(tmp_path / "r", rows=("max", "paged"), num_requests=60)
    summary = results.summary
    summary["allocator"] = [evil, "</svg><b>$x$"]
    results.manifest["name"] = evil
    results.manifest["command"] = evil
    results.__dict__["config"] = {"question": evil, "allocators": {evil: {}}}
    browser.open(page.write(results, tmp_path / "evil.html"))
    assert browser.errors == []
    assert browser.evaluate("document.title") == f"{evil} - pagesim"
    assert browser.evaluate("document.querySelectorAll('img, b:not(.meters b)').length") == 0
    assert browser.evaluate("document.querySelector('h1').textContent") == evil


def test_a_click_on_a_heading_sorts_the_table(opened: Browser) -> None:
    table = "document.querySelector('table.sortable')"
    column = f"[...{table}.tBodies[0].rows].map((row) => row.cells[1].textContent)"
    click = f"{table}.tHead.rows[0].cells[1].querySelector('button').click()"
    figures = []
    for _ in range(2):
        opened.evaluate(click)
        figures.append([float(text.rstrip("*")) for text in opened.evaluate(column)])
    assert figures[0] == sorted(figures[0], reverse=True)
    assert figures[1] == sorted(figures[1])
    assert len(set(figures[0])) > 1
    assert opened.evaluate(f"{table}.tHead.rows[0].cells[1].getAttribute('aria-sort')") == "ascending"


def test_figures_say_values_at_the_pointer(opened: Browser, results: Results) -> None:
    box = opened.evaluate(
        "(() => { const svg = document.querySelector('#figure-memory svg'); svg.scrollIntoView({block: 'center'});"
        "const data = JSON.parse(document.getElementById('hover-data').textContent).memory[0].bars[0];"
        "const place = new DOMPoint((data.box[0] + data.box[2]) / 2, (data.box[1] + data.box[3]) / 2)"
        ".matrixTransform(svg.getScreenCTM()); return [place.x, place.y]; })()"
    )
    opened.point_at(*box)
    lines = opened.evaluate("[...document.querySelectorAll('.tip div')].map((line) => line.textContent)")
    summary = results.summary
    share = 100 * float(summary["utilization"][summary["run"] == "max-seed0"].iloc[0])
    assert lines[0] == "max: live"
    assert lines[1].startswith("share of the KV cache")
    assert float(lines[1].split(": ")[1]) == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize("dark", [False, True])
def test_it_looks_as_it_did(browser: Browser, results: Results, dark: bool) -> None:
    browser.open(results.folder / "report.html", height=1800, dark=dark)
    browser.wait_for("document.getElementById('memory-view').dataset.ready === 'true'")
    path = REFERENCE / f"report-{'dark' if dark else 'light'}.png"
    shown, expected = small(browser.screenshot()), small(path.read_bytes())
    assert np.abs(shown - expected).mean() < 8  # of 255: fonts differ from machine to machine, a layout does not
    assert (shown.mean() < 100) == dark


def test_a_page_of_a_hundred_thousand_requests_stays_small(browser: Browser, tmp_path: Path) -> None:
    """It holds figures, not requests: bytes, elements and points are those of a small run."""
    counts = []
    for number in (1_000, 100_000):
        results = synthetic.write(tmp_path / str(number), num_requests=number)
        path = page.write(results)
        browser.open(path)
        assert browser.errors == []
        assert browser.evaluate("document.querySelectorAll('figure svg').length") == len(figures.sensible(results)) > 6
        counts.append((path.stat().st_size, browser.evaluate("document.querySelectorAll('*').length")))
    (_, _), (size, elements) = counts
    assert size < 1_500_000  # of the 8 MB that a page may have; the memory view adds at most 4 MiB
    assert MAX_BYTES <= 4 * 2**20
    assert elements < 6_000
    assert size < 1.5 * counts[0][0]
    assert elements < 1.5 * counts[0][1]


def test_the_largest_memory_view_stays_small(browser: Browser, tmp_path: Path) -> None:
    """Snapshots that cannot be packed: as many rows are shown as the page can hold, the others are named."""
    results = synthetic.write(tmp_path / "r", num_requests=200)
    random = np.random.default_rng(0)
    frames, cells = 240, 2048
    for run in results.runs:
        counts = np.full(frames, 2 * cells)
        columns: dict[str, Any] = {"t_s": [round(0.256 * (frame + 1), 3) for frame in range(frames)]}
        columns |= {name: random.integers(0, 99, frames) for name in ("running", "waiting", "swapped")}
        columns |= {"is_refused": random.random(frames) < 0.5, "block_size": np.full(frames, 16)}
        columns |= {f"{name}_slots": counts for name in COUNTED}
        columns["owner"] = [random.integers(0, 1 << 24, cells, np.uint32).tobytes() for _ in range(frames)]
        columns["kind"] = [random.choice([0, 2, 3, 5, 0x85], cells).astype(np.uint8).tobytes() for _ in range(frames)]
        columns |= {"num_slots": np.full(frames, 16 * cells), "slots_per_cell": np.full(frames, 16)}
        files.write_parquet(results.folder / "runs" / run / layout.MEMORY, files.table_of_arrays(columns))
    path = page.write(results)
    assert MAX_BYTES / 2 < path.stat().st_size < 8 * 2**20
    browser.open(path)
    browser.wait_for("document.getElementById('memory-view').dataset.ready === 'true'")
    assert browser.errors == []
    shown = browser.evaluate("[...document.querySelectorAll('#memory-view h3')].map((head) => head.textContent)")
    assert 1 <= len(shown) < len(results.runs)
    hidden = browser.evaluate("document.querySelector('#memory-view > p:last-of-type').textContent")
    assert hidden == f"Not shown: {', '.join(list(synthetic.PLAIN)[len(shown) :])}."
