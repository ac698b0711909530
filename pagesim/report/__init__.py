"""What people look at: tables, figures and the page. Reads a results folder and nothing else."""

from __future__ import annotations

from pagesim.report.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
