"""``pagesim validate``: check an experiment without running it, and show its arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pagesim.commands.options import Debug, Json, Sets
from pagesim.commands.tables import columns, heading
from pagesim.errors import ConfigError


def validate(
    experiment: Annotated[
        Path | None, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment file.", show_default=False)
    ] = None,
    sets: Sets = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of experiment files.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check an experiment without running it; show the memory arithmetic and every cost coefficient."""
    from pagesim import experiment_file
    from pagesim.experiment_file.names import check_names

    if schema:
        typer.echo(json.dumps(experiment_file.schema(), indent=2))
        return
    if experiment is None:
        raise ConfigError("pagesim validate: name an experiment file, or ask for --schema")
    file = experiment_file.load(experiment, sets or ())
    check_names(file)

    from pagesim.experiment import describe, plan

    sections = describe(file)
    num_runs = len(plan(file))
    if as_json:
        shown = [
            {
                "title": title,
                "values": [{"name": name, "value": value, "meaning": meaning} for name, value, meaning in rows],
            }
            for title, rows in sections
        ]
        typer.echo(json.dumps({"experiment": file.config.name, "runs": num_runs, "sections": shown}, indent=2))
        return
    for title, rows in sections:
        typer.echo(heading(title))
        typer.echo(columns(rows))
        typer.echo()
    typer.echo(f"{experiment} is valid: {num_runs} {'run' if num_runs == 1 else 'runs'}.")
