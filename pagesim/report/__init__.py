"""What people look at: tables, figures and the page. Reads a results folder and nothing else."""

from __future__ import annotations

from pathlib import Path

from pagesim.report.comparison import Comparison, compare
from pagesim.results import Results

__all__ = ["Comparison", "compare", "write_report"]


def write_report(results: Results, problems: list[str] | None = None) -> Path:
    """Write the plots and the page into a results folder; return the page's path.

    Args:
        results: a results folder; of one that is not whole, what there is.
        problems: takes a sentence for whatever cannot be shown; the page says it in any case.

    Raises ConfigError if the summary cannot be read or a file cannot be written.
    """
    from pagesim.report import figures, page

    found: list[str] = []
    drawn = figures.draw_all(results, found)
    figures.write_all(results, drawn=drawn)
    path = page.write(results, drawn=drawn, problems=found)
    if problems is not None:
        problems += found
    return path
