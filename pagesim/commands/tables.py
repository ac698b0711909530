"""Plain columns of text, the same on a terminal and in a pipe."""

from __future__ import annotations

import os
from collections.abc import Sequence

import typer


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Return rows as aligned columns, two spaces apart; the last one is not padded."""
    if not rows:
        return f"{indent}(none)"
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]) - 1)]
    return "\n".join(
        (indent + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())
        for row in rows
    )


def heading(text: str) -> str:
    """Return a title, bold on a terminal (typer drops the escape codes elsewhere)."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, bold=True)
