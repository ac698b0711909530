"""The page: one file without references, the numbers of the table, nothing from files that is not escaped."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pagesim.errors import ConfigError
from pagesim.report import page, write_report
from pagesim.report.cells import tables
from pagesim.report.figures import sensible
from pagesim.report.rows import Rows
from pagesim.report.verdict import verdict
from pagesim.results import Results
from tests import synthetic_results as synthetic

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects what a page has, and checks that its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.links: list[str] = []
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action")]
        if tag == "td":
            self._cell = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "td" and self._cell is not None:
            self.cells.append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return synthetic.write(tmp_path_factory.mktemp("page") / "r", seeds=(0, 1), num_requests=100)


def test_it_is_one_file_that_needs_no_other(results: Results) -> None:
    path = write_report(results)
    assert path == results.folder / "report.html"
    assert path.stat().st_size < 2_000_000
    reader = read(path.read_text(encoding="utf-8"))
    assert all(link.startswith("#") for link in reader.links)
    assert reader.tags.count("script") == 2  # the figures' data, and what moves; neither comes from elsewhere
    assert " src=" not in path.read_text(encoding="utf-8")
    assert reader.tags.count("svg") == len(sensible(results))
    assert sorted(file.name for file in (results.folder / "plots").iterdir()) == sorted(
        f"{kind}.{ending}" for kind in sensible(results) for ending in ("svg", "png")
    )


def test_its_numbers_are_those_of_the_table(results: Results) -> None:
    text = page.page(results)
    shown = [
        str(column.cells[line.key])
        for table in tables(Rows.of(results))
        for line in table.lines
        for column in table.columns
    ]
    assert read(text).cells == shown
    assert html.escape(verdict(Rows.of(results))) in text
    assert "How much KV cache memory does each allocator waste on chat traffic?" in text


def test_names_inside_figures_are_unique_on_the_page(results: Results) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page.page(results))
    assert len(ids) == len(set(ids))


def test_text_from_files_does_nothing(tmp_path: Path) -> None:
    results = synthetic.write(tmp_path / "r", rows=("max",), num_requests=30)
    evil = "<script>alert(1)</script>"
    path = results.folder / "experiment.yaml"
    path.write_text(path.read_text().replace("question: How", f"question: {evil} How"))
    manifest = results.folder / "manifest.json"
    manifest.write_text(
        manifest.read_text().replace("pagesim run", evil).replace('"name": "synthetic"', f'"name": "{evil}"')
    )
    text = page.page(Results.load(results.folder))
    assert evil not in text
    assert read(text).tags.count("script") == 2
    assert text.count("&lt;script&gt;") >= 4


def test_allocators_with_markup_in_their_names_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = synthetic.write(tmp_path / "r", rows=("max", "paged"), num_requests=30)
    summary = results.summary
    summary["allocator"] = ["<b>bold", "$x_1$ & co"]
    monkeypatch.setattr(Results, "summary", summary)
    text = page.page(results)
    assert "&lt;b&gt;bold" in text
    assert "<b>" not in text
    read(text)


def test_an_unfinished_folder_shows_what_there_is(tmp_path: Path) -> None:
    results = synthetic.write(tmp_path / "r", fail="pow2-seed0", num_requests=30)
    (results.folder / "runs/oracle-seed0/timeline.parquet").write_bytes(b"half")
    (results.folder / "experiment.yaml").unlink()
    text = page.page(Results.load(results.folder))
    assert "run pow2-seed0 failed: the policy raised ZeroDivisionError" in text
    assert "the figure utilization cannot be shown" in text
    assert 'id="figure-memory"' in text
    assert 'id="figure-utilization"' not in text
    read(text)


def test_a_folder_without_a_run_gives_a_page_that_says_so(tmp_path: Path) -> None:
    results = synthetic.write(tmp_path / "r", rows=("max",), fail="max-seed0", num_requests=30)
    text = write_report(results).read_text()
    assert "No run is done." in text
    read(text)


def test_a_page_that_cannot_be_written_is_told(results: Results, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        page.write(results, tmp_path / "no" / "folder" / "report.html")


def test_the_terminal_and_the_page_say_the_same(results: Results) -> None:
    from pagesim.report.table import render

    stream = StringIO()
    render(results, Console(file=stream, width=120))
    printed = " ".join(stream.getvalue().split())
    for note in re.findall(r"<li>(.*?)</li>", page.page(results)):
        assert " ".join(html.unescape(note).split()) in printed
