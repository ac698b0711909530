"""What people look at: tables, figures and the page. Reads a results folder and nothing else."""

from __future__ import annotations

from pathlib import Path

from pagesim.report.comparison import Comparison, compare
from pagesim.results import Results

__all__ = ["Comparison", "compare", "write_report"]


def write_report(results: Results) -> Path:
    """Write the plots and the page into a results folder; return the page's path."""
    from pagesim.report import figures, page

    drawn = figures.draw_all(results)
    figures.write_all(results, drawn=drawn)
    return page.write(results, drawn=drawn)
