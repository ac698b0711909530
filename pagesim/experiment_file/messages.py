"""What pydantic found wrong, as one sentence each, at the place where it was written."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pagesim.config_types import Path, ProblemsError, brief, show
from pagesim.experiment_file.document import Document, Mark
from pagesim.experiment_file.known_keys import fields_at
from pagesim.suggestions import nearest


def explain(error: ValidationError, document: Document, suffix: str = "") -> list[str]:
    """Return every problem with its place, in the order of the places; ``suffix`` ends each sentence."""
    found: list[tuple[Mark, str]] = []
    for detail in error.errors(include_url=False):
        for path, message, of_key in _problems(detail, document.data):
            found.append((document.place(path, of_key=of_key), f"{show(path)}: {message}{suffix}"))
    found.sort(key=lambda item: (item[0].line or 0, item[0].column or 0))
    return list(dict.fromkeys(mark.say(message) for mark, message in found))


def _problems(detail: ErrorDetails, data: Any) -> list[tuple[Path, str, bool]]:
    """Return (path, sentence, whether the key is to blame and not its value)."""
    path = tuple(detail["loc"])
    context = detail.get("ctx", {})
    value = detail["input"]
    error = context.get("error")
    if isinstance(error, ProblemsError):
        found = [((*path, *inner), message) for inner, message in error.problems]
        return [(path, message, isinstance(_value(data, path), dict)) for path, message in found]
    match detail["type"]:
        case "value_error":
            return [(_written(path, data), str(error), False)]
        case "extra_forbidden":
            known = fields_at(path[:-1]) or []
            message = f"unknown key {path[-1]!r}{nearest(str(path[-1]), known)}; allowed: {', '.join(known)}"
            return [(path[:-1], message, True)] if not is_written(data, path) else [(path, message, True)]
        case "missing":
            return [(path, "is required", True)]
    if path and path[-1] == "[key]":
        row = path[:-1]
        return [(row, f"{row[-1]!r} is no name for a row: letters, digits, _ and -, at most 60, no dots", True)]
    return [(_written(path, data), _sentence(detail["type"], context, value, detail["msg"]), False)]


def is_written(data: Any, path: Path) -> bool:
    """Return whether data has something at a path, if only an empty value."""
    return _written(path, data) == path


_BOUNDS: Final = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}
_EXPECTED: Final = {
    "int_": "a whole number",
    "float_": "a number",
    "finite_number": "a finite number",
    "string_type": "text (quote it if it looks like a number)",
    "string_too_short": "text that is not empty",
    "bool_": "true or false",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "list_type": "a list such as [0, 1]",
}
"""What pydantic's kinds of error, by their beginnings, expected."""


def _sentence(kind: str, context: dict[str, Any], value: Any, fallback: str) -> str:
    got = brief(value)
    if kind in _BOUNDS:
        limit = next(iter(context.values()))
        shown = f"{limit:g}" if isinstance(limit, float) else f"{limit}"
        return f"must be {_BOUNDS[kind]} {shown}, is {got}"
    for beginning, expected in _EXPECTED.items():
        if kind.startswith(beginning):
            return f"must be {expected}, is {got}"
    match kind:
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            return f"{got} is not allowed{nearest(str(value), allowed)}; allowed: {', '.join(allowed)}"
        case "string_pattern_mismatch":
            return f"must begin with a letter or digit and consist of letters, digits, dots, _ and -, is {got}"
        case "too_short":
            return "must have at least one entry"
        case "string_too_long":
            return f"must have at most {context['max_length']} letters"
        case "too_long":
            return f"must have at most {context['max_length']} entries, has {context['actual_length']}"
    return f"{fallback[:1].lower()}{fallback[1:]}, is {got}"


def _written(path: Path, data: Any) -> Path:
    """Cut off what pydantic adds to a path and no one wrote, such as the branch of a union."""
    here = data
    for length, part in enumerate(path):
        if not _is_in(part, here):
            return path[:length]
        here = here[part]
    return path


def _value(data: Any, path: Path) -> Any:
    """Return what is written at a path, None where nothing is."""
    here = data
    for part in path:
        if not _is_in(part, here):
            return None
        here = here[part]
    return here


def _is_in(part: str | int, data: Any) -> bool:
    if isinstance(data, list):
        return isinstance(part, int) and part < len(data)
    return isinstance(data, dict) and part in data
