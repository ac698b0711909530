"""``pagesim plot``: one figure of a results folder."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from pagesim.commands.options import Debug


class Figure(enum.StrEnum):
    """The figures that can be asked for."""

    MEMORY = "memory"
    THROUGHPUT = "throughput"
    BLOCKS = "blocks"
    UTILIZATION = "utilization"
    FRAGMENTATION = "fragmentation"
    BATCH = "batch"
    LATENCY = "latency"
    TIME = "time"
    PREEMPTION = "preemption"
    SHARING = "sharing"
    IDEAL = "ideal"


def plot(
    results: Annotated[
        str, typer.Argument(metavar="RESULTS", help="A results folder, or an experiment's name.", show_default=False)
    ],
    kind: Annotated[Figure, typer.Option("--kind", help="Which figure.")] = Figure.MEMORY,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write it: .svg, .png or .pdf.", show_default=False),
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw one figure of a results folder."""
    from pagesim.report.figures import plot as draw

    typer.echo(draw(results, kind.value, out))
