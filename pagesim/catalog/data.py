"""Reading the catalog's YAML, and the fields of an entry with errors that name them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

from pagesim.errors import ConfigError
from pagesim.suggestions import nearest


@cache
def load(name: str) -> Mapping[str, Any]:
    """Return the entries of ``<name>.yaml`` by their names; to be left as they are."""
    import yaml

    text = resources.files("pagesim.catalog").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    # libyaml, where PyYAML has been built with it, is eight times as fast
    loaded: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded


def entry(file: str, kind: str, name: str) -> Mapping[str, Any]:
    """Return one entry. Raises ConfigError with the nearest name."""
    known = load(file)
    found: Mapping[str, Any] | None = known.get(name, known.get(name.lower()))
    if found is None:
        raise ConfigError(unknown(kind, name, known))
    return found


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a sentence about a name that is not among the known ones."""
    known = list(known)
    longer = [repr(other) for other in known if name and other.startswith(name.lower())]
    hint = f"; did you mean {' or '.join(longer)}?" if 1 <= len(longer) <= 3 else nearest(name, known)
    return f"unknown {kind} {name!r}{hint}; known: {', '.join(known)}"


def check_keys(what: str, given: Collection[str], required: Iterable[str], optional: Iterable[str]) -> None:
    """Raise ConfigError unless all required keys, and no unknown ones, are given."""
    required = list(required)
    allowed = [*required, *optional]
    for key in given:
        if key not in allowed:
            raise ConfigError(f"{what}: unknown key {key!r}{nearest(str(key), allowed)}; allowed: {', '.join(allowed)}")
    missing = [key for key in required if key not in given]
    if missing:
        raise ConfigError(f"{what}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def whole(what: str, key: str, value: Any) -> int:
    """Return a whole number from 1. Raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{what}: {key}: must be a whole number of at least 1, is {value!r}")
    return value


def text(what: str, key: str, value: Any) -> str:
    """Return a text that is not empty. Raises ConfigError for anything else."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{what}: {key}: must be a text, is {value!r}")
    return value
