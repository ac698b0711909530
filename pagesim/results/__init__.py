"""The results folder of an experiment: one writer, one reader, and the names of its columns.

    results/<name>/<UTC time>-<config hash>/
        manifest.json  experiment.yaml  summary.parquet  summary.csv
        runs/<run>/    requests.parquet  timeline.parquet  summary.json  state.json
        plots/  report.html
    results/<name>/latest -> the newest of them

``state.json`` is written last of a run's files: a run without it has not been done.
"""

from __future__ import annotations

from pagesim.results.columns import SUMMARY_COLUMNS
from pagesim.results.reader import Results
from pagesim.results.writer import ResultsWriter, Table

__all__ = ["SUMMARY_COLUMNS", "Results", "ResultsWriter", "Table"]
