"""A part of a real run: the run is simulated again, which gives the same steps, and looked at on the way."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from typing import Final

from pagesim import experiment_file
from pagesim.backend import Step, StepResult
from pagesim.errors import ConfigError
from pagesim.explain.follow import Needs, follow
from pagesim.explain.frames import Walk
from pagesim.explain.life import Biographer, Life, live
from pagesim.explain.observer import Observer, Window, WindowEnded
from pagesim.results import Results, layout
from pagesim.runs import Run, RunSpec
from pagesim.suggestions import nearest
from pagesim.units import TICKS_PER_SECOND, parse_time

LEAD: Final = 2
"""Steps that are shown before the one at which memory first runs out."""

LENGTH: Final = 8
"""Steps that are shown where no window is asked for."""


def parse(text: str) -> Window:
    """Return the window that ``START:END`` names: iterations, or times where a unit is written.

    Raises ConfigError for anything else.
    """
    start, colon, end = text.partition(":")
    try:
        if not colon:
            raise ValueError("no colon")
        if all(part.strip().isdigit() for part in (start, end) if part.strip()):
            first, last = int(start or 0), int(end) if end.strip() else None
            is_time = False
        else:
            first, last = parse_time(start.strip() or "0 s"), parse_time(end.strip()) if end.strip() else None
            is_time = True
    except ValueError:
        raise ConfigError(
            f"--window {text}: write START:END in iterations, such as 100:110, or in time, such as '10 s:10.5 s'"
        ) from None
    if last is not None and last <= first:
        raise ConfigError(f"--window {text}: ends before it begins")
    return Window(first, last, is_time)


def load(source: str, sets: Listing[str]) -> experiment_file.ExperimentFile:
    """Return the experiment of a file, of a results folder, or of the latest results by their name.

    Raises ConfigError if there is none, or if settings are given for results.
    """
    if source.endswith((".yaml", ".yml")):
        return experiment_file.load(source, sets)
    if sets:
        raise ConfigError("--set changes an experiment file; results are explained as they were run")
    return experiment_file.load(Results.load(source).folder / layout.EXPERIMENT)


def choose(specs: Listing[RunSpec], rows: Listing[str], run: str | None, baseline: str) -> list[RunSpec]:
    """Return the runs to explain: the named one, or the first of each row; of the last buildable row by default.

    Raises ConfigError for a name that there is not.
    """
    by_name = {spec.name: spec for spec in specs}
    if run is not None:
        if run not in by_name:
            known = list(by_name)
            raise ConfigError(f"--run {run}: there is no such run{nearest(run, known)}; runs: {_some(known)}")
        return [by_name[run]]
    first = {spec.allocator: spec for spec in reversed(specs)}
    names = list(dict.fromkeys(spec.allocator for spec in specs))
    for row in rows:
        if row not in first:
            raise ConfigError(
                f"--allocator {row}: the experiment has no such row{nearest(row, names)}; rows: {_some(names)}"
            )
    others = [name for name in names if name != baseline and first[name].row.policy != "ideal"]
    return [first[name] for name in rows or others[-1:] or [baseline]]


def walk(spec: RunSpec, window: Window | None) -> Walk:
    """Simulate a run as far as the end of a window, and return its frames.

    Args:
        spec: which run.
        window: its steps; None: around the first one at which the allocator refuses somebody.

    Raises:
        ConfigError: the window lies behind the end of the run.
        PagesimError: the run cannot be built, or fails.
    """
    if window is None:
        start = max(first_refusal(spec) - LEAD, 0)
        window = Window(start, start + LENGTH)
    run = Run(spec)
    observer = Observer(run.engine, window, Needs(run.allocator, run.build_twin))
    found = follow(run.engine, observer, spec.name, spec.row.policy)
    if not found.frames:
        seconds = found.end / TICKS_PER_SECOND
        raise ConfigError(
            f"--window: {spec.name} has no step there; it has {found.num_steps} iterations and ends at {seconds:.6g} s"
        )
    return found


def life(spec: RunSpec, identifier: int) -> Life:
    """Simulate a run until a request has ended, and return what happened to it.

    Raises ConfigError if there is no such request.
    """
    run = Run(spec)
    workload = run.workload
    if not 0 <= identifier < len(workload):
        raise ConfigError(f"--request {identifier}: the workload has requests 0 to {len(workload) - 1}")
    arrivals = workload.whole().arrivals
    arrival = 0 if arrivals is None else int(arrivals[identifier])
    biographer = Biographer(run.engine, identifier, Needs(run.allocator, run.build_twin), arrival)
    return live(run.engine, biographer, spec.name)


def first_refusal(spec: RunSpec) -> int:
    """Return the first iteration at which the allocator or the watermark keeps a request waiting, or 0."""
    run = Run(spec)
    found = 0

    def look(step: Step, result: StepResult, now: int) -> None:
        nonlocal found
        if run.scheduler.refused_by_allocator:
            found = run.journal.iterations
            raise WindowEnded

    run.engine.on_step = look
    try:
        run.engine.run()
    except WindowEnded:
        return found
    return 0


def _some(names: Listing[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
