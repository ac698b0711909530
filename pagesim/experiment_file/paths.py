"""Dotted paths into an experiment, for ``--set`` and ``sweep``: ``allocators.*.block_size``."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pagesim.config_types import Path, brief, show
from pagesim.errors import ConfigError
from pagesim.experiment_file.document import Document, Mark
from pagesim.experiment_file.known_keys import fields_at, takes_any_key
from pagesim.suggestions import nearest


def expand(document: Document, dotted: str) -> list[Path]:
    """Return the paths that a dotted path stands for: one, or one a row for ``allocators.*``.

    Raises ConfigError if the schema has no such key, or if there is no such row.
    """
    parts = _split(dotted)
    if not all(parts):
        raise ConfigError(f"{dotted!r} is no key; write names with dots between them, such as scheduler.max_num_seqs")
    paths: list[Path] = [()]
    for index, part in enumerate(parts):
        is_last = index == len(parts) - 1
        paths = [(*path, name) for path in paths for name in _step(document.data, path, part, parts, is_last=is_last)]
    return paths


def assign(document: Document, path: Path, value: Any, mark: Mark) -> None:
    """Put a value at a path, making the mappings on the way; its place is ``mark`` from now on."""
    data: Any = document.data
    for index, part in enumerate(path[:-1], start=1):
        if data.get(part) is None:
            data[part] = {}
            document.keys[path[:index]] = document.values[path[:index]] = mark
        data = data[part]
    data[path[-1]] = copy.deepcopy(value)
    document.forget(path)
    for inner in _paths_in(value, path):
        document.values[inner] = mark
        document.keys[inner] = mark


def _split(dotted: str) -> list[str]:
    head, _, rest = dotted.partition(".")
    return [head, rest] if head == "sweep" and rest else dotted.split(".")


def _step(data: dict[str, Any], path: Path, part: str, parts: list[str], *, is_last: bool) -> list[str]:
    """Return the names that one part of a dotted path stands for below ``path``."""
    here: Any = data
    for name in path:
        here = here.get(name) if isinstance(here, dict) else None
    if path == ("allocators",):
        _refuse_scalar(here, path, part)
        rows = list(here or {})
        if part == "*":
            return rows
        if part not in rows and not is_last:
            raise ConfigError(f"allocators has no row {part!r}{nearest(part, rows)}; rows: {', '.join(rows)}")
        return [part]
    if part == "*":
        raise ConfigError("* stands for every row of allocators, nothing else: allocators.*.block_size")
    known = fields_at(path)
    if known is None and not takes_any_key(path):
        raise ConfigError(f"{show(path)} has no keys of its own, so not {part!r} either")
    if known is not None and part not in known and not takes_any_key(path):
        hint = nearest(part, known) or _elsewhere(".".join(parts[len(path) :]), data)
        where = f"{show(path)} has no key" if path else "there is no key"
        raise ConfigError(f"{where} {part!r}{hint}; allowed: {', '.join(known)}")
    _refuse_scalar(here, path, part)
    return [part]


def _refuse_scalar(here: Any, path: Path, part: str) -> None:
    if here is not None and not isinstance(here, dict):
        raise ConfigError(f"{show(path)} is {brief(here)}, not a mapping, so it has no key {part!r}")


def _elsewhere(name: str, data: dict[str, Any]) -> str:
    """Return a hint at a key of that name deeper down, where there is one."""
    rows = data.get("allocators")
    row = next(iter(rows)) if isinstance(rows, dict) and rows else "*"
    for path in _schema_paths((), row):
        if show(path).endswith(f".{name}"):
            return f"; did you mean {show(path)!r}?"
    return ""


def _schema_paths(path: Path, row: str) -> Iterator[Path]:
    names = [row] if path == ("allocators",) else fields_at(path) or []
    for name in names:
        yield (*path, name)
        yield from _schema_paths((*path, name), row)


def _paths_in(value: Any, path: Path) -> Iterator[Path]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths_in(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths_in(inner, (*path, index))
