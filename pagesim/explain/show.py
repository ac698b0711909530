"""What ``explain`` shows, put together: walks or lives, and the sentences above them."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass
from pathlib import Path

from pagesim.explain import batch, cases, window
from pagesim.explain.frames import Walk
from pagesim.explain.life import Life
from pagesim.explain.observer import Window


@dataclass(frozen=True)
class Story:
    """Either walks, or the lives of a request, under one or several allocators.

    Attributes:
        title: of a page.
        headings: the sentences above.
        walks: on the same clock.
        lives: of the request that was asked for.
        unit: ticks of a step where all steps take the same; None: times differ.
    """

    title: str
    headings: tuple[str, ...]
    walks: tuple[Walk, ...] = ()
    lives: tuple[Life, ...] = ()
    unit: int | None = None


def small(
    name: str, sizes: cases.Sizes, rows: Listing[str], window_text: str | None, request: int | None, base_dir: Path
) -> Story:
    """Return the story of a small batch.

    Args:
        name: of the case.
        sizes: what the user says of it.
        rows: the allocators; none: those of the case.
        window_text: ``START:END``, in steps; None: all, up to a bound.
        request: whose life is asked for; None: the walk.
        base_dir: where a user's file is looked up.

    Raises ConfigError where sizes or names are wrong.
    """
    made = cases.make(name, sizes)
    policies = tuple(dict.fromkeys(rows)) or cases.CASES[name].rows
    headings = cases.headings(name, made)
    if rows:  # the case's sentence speaks of its own allocators
        headings = headings[1:]
    if request is not None:
        lives = tuple(batch.life(made, policy, base_dir, request) for policy in policies)
        return Story(f"Request {request} of a small batch", tuple(headings), lives=lives, unit=batch.STEP)
    seen = Window(0, cases.MAX_STEPS) if window_text is None else window.parse(window_text)
    walks = tuple(batch.walk(made, policy, base_dir, seen) for policy in policies)
    if window_text is None and not all(walk.is_complete for walk in walks):
        headings.append(f"The first {cases.MAX_STEPS} steps are shown; --window START:END shows others.")
    return Story("A small batch, step by step", tuple(headings), walks, unit=batch.STEP)


def real(
    source: str,
    sets: Listing[str],
    rows: Listing[str],
    run: str | None,
    window_text: str | None,
    request: int | None,
) -> Story:
    """Return the story of a window of an experiment, or of one of its requests; arguments as on the command line.

    Raises ConfigError where a file, a name or the window is wrong.
    """
    from pagesim.experiment import baseline, check, plan

    file = window.load(source, sets)
    specs = window.choose(plan(file), rows, run, baseline(file))
    seen = None if window_text is None else window.parse(window_text)
    check(file, specs)  # what is wrong with a row is told with its place
    name = file.config.name
    if request is not None:
        lives = tuple(window.life(spec, request) for spec in specs)
        return Story(f"Request {request} of {name}", (file.config.question or name,), lives=lives)
    walks = tuple(window.walk(spec, seen) for spec in specs)
    headings = [file.config.question or name]
    if seen is None:
        headings.append(
            "The steps around the first one at which memory ran out, else the first; --window START:END shows others."
        )
    return Story(f"{name}, step by step", tuple(headings), walks)
