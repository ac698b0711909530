"""Reading and writing experiment files: YAML with positions, ``--set``, sweeps, the resolved file.

Whatever is wrong is reported in one pass, each problem as ``file.yaml:LINE:COLUMN: key: what is wrong,
what is allowed``, with the source line and a caret.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from pathlib import PurePath
from typing import Any, Final

from pydantic import ValidationError

from pagesim.config import ExperimentConfig
from pagesim.config_types import Path, brief, show
from pagesim.errors import ConfigError, TraceError
from pagesim.experiment_file.document import MAX_DEPTH, Document, Mark, parse, parse_value
from pagesim.experiment_file.messages import explain, is_written
from pagesim.experiment_file.paths import assign, expand
from pagesim.experiment_file.sweep import combinations, sweep_problems
from pagesim.experiment_file.writing import dump, schema
from pagesim.suggestions import nearest

__all__ = ["ExperimentFile", "at_point", "dump", "from_dict", "load", "points", "schema"]

MAX_SIZE: Final = 4 * 2**20
"""Bytes of a file: more is no experiment, but a trace or a device that never ends."""


_HARMLESS: Final[dict[str, Any]] = {
    "name": "x",
    "model": "x",
    "device": "x",
    "workload": {
        "num_requests": 1,
        "arrivals": {"process": "poisson", "rate": 1},
        "lengths": {"dataset": "x"},
    },
    "allocators": {"x": {"policy": "paged"}},
}
"""Values for the keys that an experiment must have, where those that it has are wrong."""


@dataclass(frozen=True)
class ExperimentFile:
    """An experiment as it was read.

    Attributes:
        config: what it says, validated, with ``--set`` applied.
        base_dir: the folder that plug-ins and traces are looked up in first.
        source: the text of the file.
        document: its data with places, before validation.
    """

    config: ExperimentConfig
    base_dir: FilePath
    source: str
    document: Document = field(repr=False, compare=False)

    @contextlib.contextmanager
    def locate(self, *path: str | int) -> Iterator[None]:
        """Give a ConfigError that is raised inside the place of the key that it is about.

        ``with file.locate("allocators", "paged"): build(...)``. A message that begins with a key found
        there (``block_size: ...``) points at that key.
        """
        try:
            yield
        except ConfigError as error:
            trace: Path = ("workload", "trace", "path")
            if isinstance(error, TraceError) and is_written(self.document.data, trace):
                path = trace  # whichever row it was that read it first
            raise type(error)(_placed(self.document, path, str(error))) from (error.__cause__ or error)


def load(path: FilePath | str, sets: Sequence[str] = ()) -> ExperimentFile:
    """Read an experiment file and apply ``KEY=VALUE`` settings to it.

    Raises ConfigError with every problem that the file and the settings have.
    """
    path = FilePath(path)
    source = _read(path)
    return _validated(parse(source, str(path)), sets, path.absolute().parent, source)


def from_dict(data: Mapping[str, Any], base_dir: FilePath | str = ".", sets: Sequence[str] = ()) -> ExperimentFile:
    """Make an experiment of plain data, as YAML would give it. Raises ConfigError."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"an experiment is a mapping of keys to values, not {type(data).__name__}")
    document = Document(_plain(data), "")
    return _validated(document, sets, FilePath(base_dir).absolute(), "")


def points(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Return the points of the sweep in order: dotted key -> value; one empty point without a sweep."""
    return combinations(config.sweep)


def at_point(file: ExperimentFile, point: Mapping[str, Any]) -> ExperimentConfig:
    """Return the experiment at one point of its sweep, without the sweep. Raises ConfigError."""
    return file_at(file, point).config


def file_at(file: ExperimentFile, point: Mapping[str, Any]) -> ExperimentFile:
    """Return the experiment at one point of its sweep as a file, so that its errors have places."""
    document = _document_at(file.document, point)
    try:
        config = ExperimentConfig.model_validate(document.data)
    except ValidationError as error:
        where = f" (at the sweep point {_point_text(point)})" if point else ""
        raise ConfigError("\n".join(explain(error, document, where))) from None
    return ExperimentFile(config, file.base_dir, file.source, document)


def _read(path: FilePath) -> str:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise ConfigError(f"there is no experiment file {str(path)!r}{_nearest_file(path)}") from None
    except IsADirectoryError:
        inside = sorted(file.name for file in path.glob("*.yaml"))
        hint = f", such as {path / inside[0]}" if inside else ""
        raise ConfigError(f"{str(path)!r} is a folder; name an experiment file{hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {str(path)!r}: {reason}") from None
    if len(content) > MAX_SIZE:
        raise ConfigError(f"{str(path)!r} has more than 4 MiB; that is no experiment file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not text in UTF-8 (byte {error.start})") from None


def _nearest_file(path: FilePath) -> str:
    try:
        return nearest(path.name, [file.name for file in path.parent.iterdir() if file.suffix in (".yaml", ".yml")])
    except OSError:
        return ""


def _validated(document: Document, sets: Sequence[str], base_dir: FilePath, source: str) -> ExperimentFile:
    problems = _apply(document, sets)
    config: ExperimentConfig | None = None
    try:
        config = ExperimentConfig.model_validate(document.data)
    except ValidationError as error:
        problems += explain(error, document)
        problems += _between_parts(document, error)
    problems += sweep_problems(document)
    if config is None or problems:
        raise ConfigError("\n".join(problems))
    file = ExperimentFile(config, base_dir, source or dump(config), document)
    _check_points(file)
    return file


def _apply(document: Document, sets: Sequence[str]) -> list[str]:
    """Apply ``KEY=VALUE`` settings in order; return what is wrong with them."""
    problems = []
    for setting in sets:
        origin = f"--set {setting}"
        key, equals, text = setting.partition("=")
        try:
            if not equals or not key.strip():
                raise ConfigError("write KEY=VALUE, such as scheduler.max_num_seqs=128")
            value = parse_value(text, origin)
            for path in expand(document, key.strip()):
                assign(document, path, value, Mark(origin))
        except ConfigError as error:
            message = str(error)
            problems.append(message if message.startswith(origin) else f"{origin}: {message}")
    return problems


def _between_parts(document: Document, error: ValidationError) -> list[str]:
    """Return what is wrong between those parts that are right in themselves.

    Pydantic asks only when all are; so the wrong ones are replaced by others that nothing follows from.
    """
    invalid = {str(detail["loc"][0]) for detail in error.errors(include_url=False) if detail["loc"]}
    if not invalid:
        return []
    data = {key: value for key, value in document.data.items() if key not in invalid}
    replaced = {**{key: value for key, value in _HARMLESS.items() if key in invalid}, **data}
    try:
        ExperimentConfig.model_validate(replaced, context={"ExperimentConfig": invalid})
    except ValidationError as further:
        return explain(further, document)
    return []


def _check_points(file: ExperimentFile) -> None:
    """Validate every point of the sweep; a problem that several have is told once."""
    found: dict[str, str] = {}
    for point in points(file.config) if file.config.sweep else []:
        document = _document_at(file.document, point)
        try:
            ExperimentConfig.model_validate(document.data)
        except ValidationError as error:
            where = f" (at the sweep point {_point_text(point)})"
            for bare, message in zip(explain(error, document), explain(error, document, where), strict=True):
                found.setdefault(bare, message)
    if found:
        raise ConfigError("\n".join(found.values()))


def _document_at(base: Document, point: Mapping[str, Any]) -> Document:
    data = {key: copy.deepcopy(value) for key, value in base.data.items() if key != "sweep"}
    document = Document(data, base.origin, dict(base.keys), dict(base.values))
    sweep = base.data.get("sweep") or {}
    for key, value in point.items():
        values = sweep.get(key, [])
        index = values.index(value) if value in values else None
        place: Path = ("sweep", key) if index is None else ("sweep", key, index)
        mark = base.place(place)
        for path in expand(document, key):
            assign(document, path, value, mark)
    return document


def _point_text(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())


def _placed(document: Document, path: Path, message: str) -> str:
    """Give a message the place of the key that it begins with, or else of ``path``."""
    if document.origin and message.startswith(f"{document.origin}:"):
        return message
    head, colon, rest = message.partition(": ")
    while colon and " " not in head:
        inner: Path = (*path, *head.split("."))
        whole: Path = tuple(head.split("."))
        if is_written(document.data, inner):
            path = inner
        elif is_written(document.data, whole):
            path = whole
        elif head != show(path) and head not in path[-1:]:
            break
        message = rest
        head, colon, rest = message.partition(": ")
    return document.place(path).say(f"{show(path)}: {message}" if path else message)


def _plain(value: Any, path: Path = ()) -> Any:
    """Copy data, with keys as text and tuples as lists, as YAML would give it.

    Raises ConfigError for a value that YAML has no form for.
    """
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"{show(path[:3])}: is nested too deeply")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, (*path, str(key))) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, (*path, index)) for index, inner in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item") and not hasattr(value, "__len__"):  # a scalar of NumPy
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{show(path)}: must be text, a number, true or false, a list or a mapping, is {brief(value)}")
