"""``pagesim report``: the page and the plots of a results folder."""

from __future__ import annotations

from typing import Annotated

import typer

from pagesim.commands.options import Debug


def report(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="A results folder, or an experiment's name.", show_default=False)
    ],
    debug: Debug = False,
) -> None:
    """Write report.html, a single file that opens offline, and the plots; print the page's path."""
    from pagesim.report import write_report
    from pagesim.results import Results

    found = Results.load(results)
    problems = found.problems
    path = write_report(found, problems)
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(path)
