"""``pagesim list``: what an experiment can name."""

from __future__ import annotations

import enum
import json
from typing import Annotated

import typer

from pagesim.commands.options import Debug, Json
from pagesim.commands.tables import columns


class Kind(enum.StrEnum):
    """What can be listed."""

    ALLOCATORS = "allocators"
    SCHEDULERS = "schedulers"
    VICTIMS = "victims"
    BACKENDS = "backends"
    ARRIVALS = "arrivals"
    LENGTHS = "lengths"
    MODELS = "models"
    DEVICES = "devices"
    TRACES = "traces"


_PLUGINS = {
    Kind.ALLOCATORS: "allocator",
    Kind.SCHEDULERS: "scheduler",
    Kind.VICTIMS: "victim",
    Kind.BACKENDS: "backend",
    Kind.ARRIVALS: "arrivals",
    Kind.LENGTHS: "lengths",
}


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List what an experiment can name, a line each."""
    rows = _rows(kind)
    if as_json:
        typer.echo(json.dumps([dict(zip(("name", "origin", "summary"), row, strict=True)) for row in rows], indent=2))
    else:
        typer.echo(columns(rows, indent=""))


def _rows(kind: Kind) -> list[tuple[str, str, str]]:
    from pagesim import catalog, plugins

    rows = [tuple(listing) for listing in plugins.available(_PLUGINS[kind])] if kind in _PLUGINS else []
    return rows
