"""``pagesim check``: hold an allocator of one's own to the contract."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pagesim.commands.options import Debug
from pagesim.commands.tables import columns
from pagesim.errors import ConfigError

if TYPE_CHECKING:
    from pagesim.testing.examine import Report
    from pagesim.testing.policies import Policy


def check(
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="FILE.py:Class, module:Class, or a name.", show_default=False)
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the policy's class. May be repeated."),
    ] = None,
    examples: Annotated[int, typer.Option("--examples", min=1, metavar="N", help="Programs that are tried.")] = 200,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="The same seed tries the same programs.")] = 0,
    debug: Debug = False,
) -> None:
    """Check an allocator: random programs of its verbs, then whole runs, with every rule looked up in each step.

    Prints the shortest program that breaks a rule, as Python, and exits with 1.
    """
    from pagesim import plugins
    from pagesim.testing.examine import examine
    from pagesim.testing.policies import Policy

    cls = plugins.resolve("allocator", policy, Path.cwd())
    made = Policy(cls, _options(sets or []))
    started = time.perf_counter()
    report = examine(made, examples=examples, seed=seed)
    rows = [("policy", policy), *_rows(made, report), ("seed", str(seed))]
    rows.append(("time", f"{time.perf_counter() - started:.1f} s"))
    rows.append(("result", "passed" if report.failure is None else f"BROKEN: {report.failure.rule}"))
    typer.echo(columns(rows, indent=""))
    if report.failure is not None:
        typer.echo(f"\n{report.failure}")
        raise typer.Exit(1)


def _options(sets: list[str]) -> dict[str, object]:
    from pagesim.experiment_file.document import parse_value

    options = {}
    for setting in sets:
        key, equals, text = setting.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError(f"--set {setting}: write KEY=VALUE, such as reserve=pow2")
        options[key] = parse_value(text, f"--set {setting}")
    return options


def _rows(policy: Policy, report: Report) -> list[tuple[str, str]]:
    from pagesim.testing.policies import CAPABILITIES

    tally = report.tally
    rows = [("options", ", ".join(f"{key}={value}" for key, value in policy.options.items()))] if policy.options else []
    rows.append(("found", "allocate, free" + "".join(f"; {CAPABILITIES[name]}" for name in report.found)))
    rows += [("not found", f"{CAPABILITIES[name]} (not tested)") for name in report.lacking]
    calls = [
        f"{tally[verb]:,} {verb}" + (f" ({tally[f'{verb} refused']:,} refused)" if tally[f"{verb} refused"] else "")
        for verb in ("allocate", "fork", "swap_out", "swap_in", "free")
        if tally[verb]
    ]
    rows.append(("checked", "INV-1 to INV-4, INV-9, INV-11, INV-12 after every call and step"))
    rows.append(("", f"{tally['programs']:,} programs of calls: {', '.join(calls)}"))
    if not tally["runs"]:
        return rows
    ends = ", ".join(f"{tally[name]:,} {name}" for name in ("finished", "refused"))
    preempted = tally["preemptions_recompute"] + tally["preemptions_swap"]
    rows.append(("", "INV-5, INV-7, INV-8, INV-10, INV-11 and the account in whole runs"))
    how = f"{', '.join(report.schedulers)} x {', '.join(report.preemptions)}"
    rows.append(("", f"{tally['runs']:,} runs of {how}: requests {ends}, preempted {preempted:,} times"))
    if tally["refused by an empty pool"]:
        rows.append(
            (
                "note",
                f"{tally['refused by an empty pool']:,} prompts were refused by an empty pool of at least their size: "
                "a run ends such requests at once",
            )
        )
    return rows
