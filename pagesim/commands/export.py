"""``pagesim export``: the steps of runs, for tools that show traces."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pagesim.commands.options import Debug
from pagesim.errors import ConfigError

if TYPE_CHECKING:
    from pagesim.results import Results


class Format(enum.StrEnum):
    """What can be written."""

    PERFETTO = "perfetto"


def export(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="A results folder, or an experiment's name.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Where to write it: .json, or .json.gz.", show_default=False),
    ],
    format: Annotated[Format, typer.Option("--format", help="Which form: a Chrome trace.")] = Format.PERFETTO,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Which run; may be repeated. By default the first point and seed of every row.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write steps, prefills, decodes, swaps, preemptions and counters of runs as a trace for ui.perfetto.dev.

    Runs whose steps were not kept (measure.steps) are simulated again.
    """
    from pagesim import chrometrace
    from pagesim.results import Results

    found = Results.load(results)
    chosen = list(dict.fromkeys(runs)) if runs else _first_of_each_row(found)
    for name in chosen:
        found.timeline(name)  # says which runs there are, if this is none of them
    chrometrace.write(out, {name: _steps(found, name) for name in chosen})
    typer.echo(out)


def _first_of_each_row(results: Results) -> list[str]:
    summary = results.summary
    if summary.empty:
        raise ConfigError(f"{results.name} has no run that is done")
    return [str(name) for name in summary.drop_duplicates("allocator")["run"]]


def _steps(results: Results, run: str) -> Any:
    """Return the columns of a run's steps: those that were kept, or those of the same run once more."""
    from pagesim.results import layout

    if results.has_table(run, layout.STEPS):
        return {name: values.tolist() for name, values in results.steps(run).items()}

    from pagesim import experiment_file
    from pagesim.experiment import plan
    from pagesim.runs import Run
    from pagesim.steplog import StepLog

    file = experiment_file.load(results.folder / layout.EXPERIMENT)
    spec = next((spec for spec in plan(file) if spec.name == run), None)
    if spec is None:
        raise ConfigError(f"{results.name}: experiment.yaml does not plan the run {run!r} any more")
    made = Run(spec)
    log = StepLog(made.scheduler)
    made.engine.on_step = log.note
    made.engine.run()
    return {name: values.tolist() for name, values in log.table().items()}
