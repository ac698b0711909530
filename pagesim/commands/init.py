"""``pagesim init``: a starter experiment and a starter allocator."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from pagesim.commands.options import Debug
from pagesim.errors import ConfigError


def init(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the experiment.")] = "experiment",
    debug: Debug = False,
) -> None:
    """Write NAME.yaml, an experiment, and NAME_allocator.py, an allocator of your own; both commented."""
    path = Path(name.removesuffix(".yaml"))
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.name) is None:
        raise ConfigError(f"{name!r} is no name for an experiment: use letters, digits, dots, _ and -")
    experiment, allocator = path.with_name(f"{path.name}.yaml"), path.with_name(f"{path.name}_allocator.py")
    for file in (experiment, allocator):
        if file.exists():
            raise ConfigError(f"{str(file)!r} exists already and is left as it is; choose another name")
    templates = resources.files("pagesim") / "templates"
    texts = {
        allocator: (templates / "starter_allocator.py").read_text(encoding="utf-8"),
        experiment: (templates / "starter.yaml").read_text(encoding="utf-8").replace("starter", path.name),
    }
    written: list[Path] = []
    try:
        for file, text in texts.items():
            with file.open("x", encoding="utf-8") as stream:
                written.append(file)
                stream.write(text)
    except OSError as error:
        for file in written:
            file.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {str(file)!r}: {error.strerror}") from None
    typer.echo(f"wrote {experiment} and {allocator}; next: pagesim run {experiment}")
