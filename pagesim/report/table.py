"""The comparison as text: on a terminal, in a pipe, and as Markdown."""

from __future__ import annotations

import textwrap
from typing import Final

import pandas as pd
from rich.console import Console
from rich.text import Text

from pagesim.report.cells import BEST, ORACLE, Cell, Column, Table, tables
from pagesim.report.notes import notes
from pagesim.report.rows import Rows
from pagesim.report.verdict import verdict
from pagesim.results import Results

WIDTH: Final = 120
"""Columns of text where there is no terminal to ask."""

_GAP: Final = "  "
_LONGEST_NAME: Final = 28


def render(source: Results | pd.DataFrame | Rows, console: Console) -> None:
    """Print the comparison: tables that fit the width, the verdict, and what has to be known to read them.

    Rows that know the future are marked with a dagger; the best of the others is bold and has a star.
    """
    rows = Rows.of(source)
    if not rows.names:
        console.print("No run is done: there is nothing to compare.")
        return
    width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    for table in tables(rows):
        for part in _split(table, width):
            for line in _lines(part):
                console.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)
            console.print()
    _say(console, verdict(rows), width, "bold")
    for note in [*legend(rows), *notes(source, rows)]:
        _say(console, note, width, "", "- ")


def to_markdown(source: Results | pd.DataFrame | Rows) -> str:
    """Return the comparison as Markdown."""
    rows = Rows.of(source)
    parts = []
    for table in tables(rows):
        lines = [f"**{table.title}**", ""]
        lines.append(_markdown([subject(rows), *(f"{column.head} {column.unit}".strip() for column in table.columns)]))
        lines.append(_markdown(["---", *("---" if column.is_text else "---:" for column in table.columns)]))
        for group in table.groups:
            if group.heading:
                lines.append(_markdown([f"*{group.heading}*", *("" for _ in table.columns)]))
            for line in group.lines:
                cells = [column.cells[line.key] for column in table.columns]
                lines.append(_markdown([line.label, *(f"**{cell}**" if cell.best else str(cell) for cell in cells)]))
        parts.append("\n".join(lines))
    listed = "\n".join(f"- {note}" for note in [*legend(rows), *notes(source, rows)])
    return "\n\n".join([*parts, verdict(rows), listed]).rstrip() + "\n"


def legend(rows: Rows) -> list[str]:
    """Return what the marks mean, of those that occur."""
    found = []
    if rows.seeks_point:
        found.append(f"{BEST} best of the sweep")
    elif len(rows.contenders) > 1:
        others = " or are the bound" if any(rows.is_bound(name) for name in rows.names) else ""
        found.append(f"{BEST} best of the rows that could be built: not those that know the future{others}")
    if any(rows.is_oracle(name) for name in rows.names):
        found.append(f"{ORACLE} knows the output lengths in advance")
    if len(rows.seeds) > 1:
        found.append(f"± standard deviation over {len(rows.seeds)} seeds; interval: paired bootstrap over seeds")
    return found


def subject(rows: Rows) -> str:
    """Return what the lines of the tables are: allocators, or points of the sweep."""
    return "sweep point" if rows.compares_points else "allocator"


def _say(console: Console, text: str, width: int, style: str, bullet: str = "") -> None:
    """Print a sentence, wrapped to the width of the tables."""
    indent = " " * len(bullet)
    for line in textwrap.wrap(text, width, initial_indent=bullet, subsequent_indent=indent, break_on_hyphens=False):
        console.print(Text(line, style=style), soft_wrap=True, highlight=False)


def _markdown(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _split(table: Table, width: int) -> list[Table]:
    """Return tables of as many columns as fit the width, at least one each."""
    parts: list[Table] = []
    used = width + 1
    for column in table.columns:
        needed = len(_GAP) + _Shape(column).width
        if used + needed > width:
            parts.append(Table(table.title + (" (continued)" if parts else ""), table.groups))
            used = _left(table)
        parts[-1].columns.append(column)
        used += needed
    return parts


def _left(table: Table) -> int:
    return max(len("allocator"), *(len(_shorten(line.label, _LONGEST_NAME)) for line in table.lines))


class _Shape:
    """Where means, spreads and marks of a column stand, so that digits align."""

    def __init__(self, column: Column) -> None:
        cells = list(column.cells.values())
        self.text = max((len(cell.text) for cell in cells), default=0)
        self.spread = max((len(cell.spread) for cell in cells), default=0)
        self.mark = len(BEST) if any(cell.best for cell in cells) else 0
        self.is_text = column.is_text
        body = self.text + (self.spread + len(" ±") if self.spread else 0) + self.mark
        self.head, self.unit = _shorten(column.head, 14), _shorten(column.unit, 14)
        self.width = max(body, len(self.head) + self.mark, len(self.unit) + self.mark)

    def show(self, cell: Cell) -> str:
        """Return a cell in the column's width."""
        if self.is_text:
            return cell.text.ljust(self.width)
        text = cell.text.rjust(self.text)
        if self.spread:
            text += " " + (f"±{cell.spread}" if cell.spread else "").rjust(self.spread + 1)
        return (text + (BEST if cell.best else " " * self.mark)).rjust(self.width)

    def title(self, text: str) -> str:
        """Return a line of the heading, over the digits."""
        return text.ljust(self.width) if self.is_text else (text + " " * self.mark).rjust(self.width)


def _lines(table: Table) -> list[Text]:
    shapes, left = [_Shape(column) for column in table.columns], _left(table)
    lines = [Text(table.title, style="bold")]
    for attribute in ("head", "unit"):
        heads = _GAP.join(shape.title(getattr(shape, attribute)) for shape in shapes)
        lines.append(Text((" " * left + _GAP + heads).rstrip(), style="dim"))
    for group in table.groups:
        if group.heading:
            lines.append(Text(group.heading, style="italic"))
        for label, key in group.lines:
            line = Text(_shorten(label, _LONGEST_NAME).ljust(left))
            for shape, column in zip(shapes, table.columns, strict=True):
                cell = column.cells[key]
                line.append(_GAP)
                line.append(shape.show(cell), style="bold" if cell.best else "")
            line.rstrip()
            lines.append(line)
    return lines
