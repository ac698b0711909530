"""What pydantic found wrong, as one sentence each, at the place where it was written."""

from __future__ import annotations

import re
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pagesim.config import ExperimentConfig
from pagesim.config_types import Path, ProblemsError, brief, show
from pagesim.experiment_file.document import Document, Mark
from pagesim.plugins import nearest


def explain(error: ValidationError, document: Document, suffix: str = "") -> list[str]:
    """Return every problem with its place, in the order of the places; ``suffix`` ends each sentence."""
    found: list[tuple[Mark, str]] = []
    for detail in error.errors(include_url=False):
        for path, message, of_key in _problems(detail, document.data):
            found.append((document.place(path, of_key=of_key), f"{show(path)}: {message}{suffix}"))
    found.sort(key=lambda item: (item[0].line or 0, item[0].column or 0))
    return list(dict.fromkeys(mark.say(message) for mark, message in found))


def fields_at(path: Path) -> list[str] | None:
    """Return the keys that the schema knows below a path; None where it is no mapping with known keys."""
    annotation: Any = ExperimentConfig
    for part in path:
        annotation = _child(annotation, part)
    model = _model(annotation)
    return None if model is None else list(model.model_fields)


def takes_any_key(path: Path) -> bool:
    """Return whether a mapping at a path may have keys that the schema does not list."""
    annotation: Any = ExperimentConfig
    for part in path:
        annotation = _child(annotation, part)
    if annotation is Any:
        return True
    model = _model(annotation)
    if model is not None:
        return model.model_config.get("extra") == "allow"
    return any(get_origin(option) is dict for option in _options(annotation))


def _child(annotation: Any, key: str | int) -> Any:
    """Return the type below a key; Any where the schema leaves it open, None where there is nothing."""
    if annotation is Any:
        return Any
    model = _model(annotation)
    if model is not None:
        field = model.model_fields.get(str(key))
        if field is not None:
            return field.annotation
        return Any if model.model_config.get("extra") == "allow" else None
    for option in _options(annotation):
        if get_origin(option) is dict:
            return get_args(option)[1]
        if get_origin(option) is list and isinstance(key, int):
            return get_args(option)[0]
    return None


def _options(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the type alone."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _model(annotation: Any) -> type[BaseModel] | None:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


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
            return [(path[:-1], message, True)] if not _has(data, path) else [(path, message, True)]
        case "missing":
            return [(path, "is required", True)]
    if path and path[-1] == "[key]":
        row = path[:-1]
        return [(row, f"{row[-1]!r} is no name for a row: letters, digits, _ and -, at most 60, no dots", True)]
    return [(_written(path, data), _sentence(detail["type"], context, value, detail["msg"]), False)]


def _sentence(kind: str, context: dict[str, Any], value: Any, fallback: str) -> str:
    got = brief(value)
    bounds = {
        "greater_than": "above",
        "greater_than_equal": "at least",
        "less_than": "below",
        "less_than_equal": "at most",
    }
    if kind in bounds:
        limit = next(iter(context.values()))
        return (
            f"must be {bounds[kind]} {limit:g}, is {got}"
            if isinstance(limit, float)
            else f"must be {bounds[kind]} {limit}, is {got}"
        )
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"{got} is not allowed{nearest(str(value), allowed)}; allowed: {', '.join(allowed)}"
    if kind == "string_pattern_mismatch":
        return f"must begin with a letter or digit and consist of letters, digits, dots, _ and -, is {got}"
    if kind == "finite_number":
        return f"must be a finite number, is {got}"
    families = {
        "int_": "must be a whole number",
        "float_": "must be a number",
        "string_type": "must be text (quote it if it looks like a number)",
        "string_too_short": "must not be empty text",
        "bool_": "must be true or false",
        "dict_type": "must be a mapping of keys to values",
        "model_type": "must be a mapping of keys to values",
        "list_type": "must be a list such as [0, 1]",
        "too_short": "must have at least one entry",
    }
    for prefix, sentence in families.items():
        if kind.startswith(prefix):
            return f"{sentence}, is {got}" if kind != "too_short" else sentence
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} letters"
    if kind == "too_long":
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


def _has(data: Any, path: Path) -> bool:
    return _written(path, data) == path
