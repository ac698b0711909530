"""``pagesim run``: every allocator at every sweep point with every seed."""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pagesim.commands.options import Debug, Experiment, Sets
from pagesim.errors import ConfigError

if TYPE_CHECKING:
    from pagesim.results import Results


def run(
    experiment: Experiment,
    sets: Sets = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where results go; results/ by default.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Runs at a time.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and list the runs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="No plots and no report.html.")] = False,
    debug: Debug = False,
) -> None:
    """Run an experiment, print the comparison and write the results folder."""
    from pagesim.experiment_file import load
    from pagesim.experiment_file.names import check_names

    file = load(experiment, sets or ())
    check_names(file)
    check_writable(out or Path("results"))

    from pagesim.experiment import check, plan, run_experiment

    specs = plan(file)
    if dry_run:
        check(file, specs)
        for spec in specs:
            typer.echo(spec.name)
        typer.echo(f"{len(specs)} {'run' if len(specs) == 1 else 'runs'}; nothing was run")
        return

    from pagesim.commands.progress import progress

    with progress(len(specs), quiet=quiet) as shown:
        results = run_experiment(
            file,
            out=out,
            jobs=jobs,
            report=False,
            command=shlex.join(["pagesim", *sys.argv[1:]]),
            watch=shown.watch,
            on_outcome=shown.note,
        )
    failed = [run for run, state in results.states.items() if state["state"] == "failed"]
    if len(failed) < len(specs):
        _show(results)
    for problem in results.problems:
        typer.echo(problem, err=True)
    if not no_report and len(failed) < len(specs):
        from pagesim.report import write_report

        typer.echo(write_report(results))
    typer.echo(results.folder)
    if failed:
        raise typer.Exit(1)


def _show(results: Results) -> None:
    from rich.console import Console

    from pagesim.report.table import render

    render(results, Console())


def check_writable(folder: Path) -> None:
    """Raise ConfigError unless files can be made in a folder, or the folder itself; leaves nothing behind."""
    existing = folder.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        if not existing.is_dir():
            raise NotADirectoryError(20, f"{str(existing)!r} is a file, not a folder")
        with tempfile.TemporaryDirectory(prefix=".pagesim-", dir=existing):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"results cannot be written to {str(folder)!r}: {reason}; choose a folder with --out"
        ) from None
