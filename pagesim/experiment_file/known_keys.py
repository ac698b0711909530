"""Which keys the schema of the experiment file knows at a path."""

from __future__ import annotations

from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from pagesim.config import ExperimentConfig
from pagesim.config_types import Path


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
