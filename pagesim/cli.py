"""The command line: turns errors into sentences and exit codes.

0 done; 1 a run failed; 2 the command or the experiment file is wrong; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pagesim import __version__
from pagesim.commands.check import check
from pagesim.commands.compare import compare
from pagesim.commands.explain import explain
from pagesim.commands.export import export
from pagesim.commands.init import init
from pagesim.commands.list import list_names
from pagesim.commands.options import Debug, Settings
from pagesim.commands.plot import plot
from pagesim.commands.report import report
from pagesim.commands.run import run
from pagesim.commands.validate import validate
from pagesim.errors import ConfigError, PagesimError

app = typer.Typer(
    help="How much KV-cache memory does an allocator waste, where, and what does it cost?",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init)
app.command("run")(run)
app.command("validate")(validate)
app.command("list")(list_names)
app.command("check")(check)
app.command("compare")(compare)
app.command("plot")(plot)
app.command("report")(report)
app.command("explain")(explain)
app.command("export")(export)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pagesim {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _begin(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error is a sentence on standard error."""
    settings = Settings()
    try:
        code = app(arguments, standalone_mode=False, prog_name="pagesim", obj=settings)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough: `pagesim list models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", 130)
    except Exception as error:
        if settings.debug:
            raise
        return _explain(error)
    if code == 130:  # what typer makes of an interruption
        return _say("interrupted", 130)
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    if isinstance(error, ConfigError):
        return _say(str(error), 2)
    if isinstance(error, PagesimError):
        return _say(str(error), 1)
    if hasattr(error, "format_message"):  # a usage error of typer, whichever click it carries
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "pagesim"
        message = " ".join(str(error.format_message()).replace("Value error, ", "").split())
        return _say(f"{command}: {message.rstrip('.')}. See '{command} --help'.", 2)
    if isinstance(error, OSError):
        name = f" {error.filename!r}" if error.filename else ""
        return _say(f"the operating system refused{name}: {error.strerror or error}", 1)
    return _say(f"internal error: {type(error).__name__}: {error} (--debug shows where)", 1)


def _say(message: str, code: int) -> int:
    typer.echo(message, err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
