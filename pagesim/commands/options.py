"""Arguments and options that several commands have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass
class Settings:
    """What holds for one call of the command line."""

    debug: bool = False


def _note_debug(context: typer.Context, wanted: bool) -> bool:
    if wanted:
        context.find_root().obj.debug = True
    return wanted


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_note_debug, is_eager=True, help="Show the traceback of an error."),
]
Experiment = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment file.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key: scheduler.max_num_seqs=128, allocators.*.block_size=32. May be repeated.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
