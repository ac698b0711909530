"""``pagesim compare``: one table over one or several results folders."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pagesim.commands.options import Debug, Json


def compare(
    results: Annotated[
        list[str],
        typer.Argument(metavar="RESULTS...", help="Results folders, or experiments' names.", show_default=False),
    ],
    fail_if: Annotated[
        str | None,
        typer.Option("--fail-if", metavar="CONDITION", help="Exit 1 if a row meets it: 'utilization < 0.8'."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare even if the workloads differ.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare results: ratios to the baseline, with confidence intervals over seeds."""
    from rich.console import Console

    from pagesim.report import compare as compare_results

    comparison = compare_results(results, force)
    violations = comparison.violations(fail_if) if fail_if is not None else []
    if as_json:
        typer.echo(json.dumps(comparison.to_json(), indent=2))
    else:
        comparison.render(Console())
    for violation in violations:
        typer.echo(violation, err=True)
    if violations:
        raise typer.Exit(1)
