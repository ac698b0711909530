"""From Python: run an experiment, or read one that has been run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pagesim import experiment, experiment_file
from pagesim.results import Results


def run(
    source: str | Path | Mapping[str, Any],
    *,
    sets: Sequence[str] = (),
    out: str | Path | None = None,
    jobs: int = 1,
    report: bool = False,
) -> Results:
    """Run an experiment and return its results; they are on disk as well.

    Args:
        source: path of an experiment file, or what one would say as plain data.
        sets: ``KEY=VALUE`` settings, as ``--set`` takes them.
        out: the results folder; by default one below ``results/``.
        jobs: processes.
        report: whether to draw the plots and write the page.

    Raises:
        ConfigError: the experiment is wrong; nothing has been written.
    """
    if isinstance(source, Mapping):
        file = experiment_file.from_dict(source, sets=sets)
    else:
        file = experiment_file.load(Path(source), sets)
    return experiment.run_experiment(
        file, out=None if out is None else Path(out), jobs=jobs, report=report, command="pagesim.run"
    )


def load(folder: str | Path) -> Results:
    """Read a results folder, or the latest results of an experiment by its name. Raises ConfigError."""
    return Results.load(folder)
