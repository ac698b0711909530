"""The resolved experiment as YAML, and the JSON Schema of experiment files."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

import yaml

from pagesim.config import ExperimentConfig
from pagesim.experiment_file.document import Dumper


def dump(config: ExperimentConfig, base_dir: FilePath | None = None) -> str:
    """Return the resolved experiment as YAML, every default written out; loading it gives an equal config.

    Args:
        config: what to write.
        base_dir: if given, files that the experiment names relative to this folder (plug-ins, traces, a
            model's config.json) are written with their whole path, so that the text may be kept elsewhere.
    """
    data = _without_empty(config, config.model_dump(mode="json", warnings="error"))
    if base_dir is not None:
        for key in data.keys() - {"name", "question", "baseline"}:
            data[key] = _whole_paths(data[key], base_dir.resolve())
    # PyYAML writes a mapping of scalars on one line with default_flow_style=None
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the experiment file, so that an editor completes and checks it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ExperimentConfig.model_json_schema(),
        "title": "pagesim experiment",
    }


def _whole_paths(value: Any, base_dir: FilePath) -> Any:
    if isinstance(value, dict):
        return {key: _whole_paths(inner, base_dir) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole_paths(inner, base_dir) for inner in value]
    if not isinstance(value, str):
        return value
    file, colon, class_name = value.rpartition(":")
    if colon:
        plugin = file if file.endswith(".py") else f"{file}.py"
        return f"{base_dir / plugin}:{class_name}" if _is_file(base_dir / plugin) else value
    return str(base_dir / value) if FilePath(value).suffix and _is_file(base_dir / value) else value


def _is_file(path: FilePath) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or not a path at all
        return False


def _without_empty(part: Any, data: Any) -> Any:
    """Leave out the keys of a part that are empty by default and empty here."""
    fields = getattr(type(part), "model_fields", None)
    if fields is not None:
        return {
            key: _without_empty(getattr(part, key), value) if key in fields else value
            for key, value in data.items()
            if value is not None or key not in fields or fields[key].default is not None
        }
    if isinstance(part, dict):
        return {key: _without_empty(part[key], value) for key, value in data.items()}
    return data
