"""The sweep of an experiment: dotted keys with their values, crossed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pagesim.config_types import Path, brief
from pagesim.errors import ConfigError
from pagesim.experiment_file.document import Document
from pagesim.experiment_file.paths import expand

MAX_POINTS: Final = 10_000

_FIXED: Final = {
    "sweep": "a sweep cannot sweep itself",
    "seeds": "seeds are crossed with every point already; list them under seeds",
    "name": "an experiment has one name",
    "question": "an experiment has one question",
    "baseline": "an experiment has one baseline",
    "ideal": "the rows are the same at every point",
}


def combinations(sweep: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the values, the last key fastest."""
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def sweep_problems(document: Document) -> list[str]:
    """Return what is wrong with the keys and lists of the sweep, each with its place.

    Whether the values suit their keys is a matter of validating each point.
    """
    sweep = document.data.get("sweep")
    if not isinstance(sweep, dict):
        return []  # told by the schema
    problems = []
    owner: dict[Path, str] = {}
    for key, values in sweep.items():
        place: Path = ("sweep", key)

        def say(message: str, at: Path = place, of_key: bool = True, key: str = key) -> str:
            return document.place(at, of_key=of_key).say(f"sweep.{key}: {message}")

        head = key.partition(".")[0]
        if head in _FIXED:
            problems.append(say(_FIXED[head]))
            continue
        try:
            paths = expand(document, key)
        except ConfigError as error:
            problems.append(say(str(error)))
            continue
        for path in paths:
            clash = next((other for other in owner if _overlap(path, other)), None)
            if clash is not None:
                problems.append(say(f"reaches the same value as {owner[clash]!r}; sweep one of the two"))
                break
        for path in paths:
            owner[path] = key
        if not isinstance(values, list):
            continue  # told by the schema
        if not values:
            problems.append(say("needs at least one value; remove the key to sweep nothing", of_key=False))
        seen = set()
        for index, value in enumerate(values):
            if isinstance(value, dict | list):
                message = f"takes single values, this is {brief(value)}; sweep a key inside it"
                problems.append(say(message, (*place, index), of_key=False))
                continue
            if value in seen:
                problems.append(say(f"{brief(value)} is listed twice", (*place, index), of_key=False))
            seen.add(value)
    count = math.prod(len(values) for values in sweep.values() if isinstance(values, list))
    if count > MAX_POINTS:
        problems.append(
            document.place(("sweep",), of_key=True).say(f"sweep: has {count:,} points, more than {MAX_POINTS:,}")
        )
    return problems


def _overlap(path: Path, other: Path) -> bool:
    length = min(len(path), len(other))
    return path[:length] == other[:length]
