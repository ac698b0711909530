"""YAML with positions: plain data, and for every key and value where it was written.

PyYAML alone keeps the last of two equal keys in silence, reads ``1e5`` as text, ``1:30`` as 90 and
``no`` as false. Here scalars follow YAML 1.2's core schema, and a repeated key is an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pagesim.config_types import Path
from pagesim.errors import ConfigError

MAX_VALUES: Final = 100_000
"""More values than any experiment has: aliases of aliases must not fill the memory."""

MAX_DEPTH: Final = 50
"""Levels of nesting; copying and writing recurse."""

_TAG: Final = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a source: a file with line and column (from 1), or an option of the command line."""

    origin: str
    line: int | None = None
    column: int | None = None
    text: str = ""

    def __str__(self) -> str:
        return self.origin if self.line is None else f"{self.origin}:{self.line}:{self.column}"

    def say(self, message: str) -> str:
        """Return the message behind the place, with the source line and a caret under it."""
        head = f"{self}: {message}" if self.origin else message
        if self.column is None or not self.text.strip():
            return head
        return f"{head}\n  | {self.text}\n  | {' ' * (self.column - 1)}^"


@dataclass(slots=True)
class Document:
    """Plain data with the places of its keys and values, by path."""

    data: dict[str, Any]
    origin: str
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)

    def place(self, path: Path, *, of_key: bool = False) -> Mark:
        """Return where a value (or its key) stands; of what is absent, where its nearest parent does."""
        if path in self.values and not of_key:
            return self.values[path]
        for length in range(len(path), -1, -1):
            for marks in (self.keys, self.values):
                if path[:length] in marks:
                    return marks[path[:length]]
        return Mark(self.origin)

    def forget(self, path: Path) -> None:
        """Drop the places at and below a path, before another value takes its place."""
        for marks in (self.keys, self.values):
            for known in [known for known in marks if known[: len(path)] == path]:
                del marks[known]


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2 does."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_RESOLVERS: Final = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


class Dumper(yaml.SafeDumper):
    """Quotes whatever text this module, or PyYAML, would read as something else."""

    yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out."""
        return True


for _name, _pattern, _first in _RESOLVERS:
    Dumper.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def parse(text: str, origin: str) -> Document:
    """Return a YAML mapping as data with places.

    Raises ConfigError with one line a problem: no YAML, not a mapping, a repeated key, a loop.
    """
    node = _compose(text, origin)
    if node is None:
        raise ConfigError(f"{origin}: is empty; an experiment needs name, model, device, workload and allocators")
    reader = _Reader(origin, text.splitlines())
    if not isinstance(node, MappingNode):
        message = "an experiment is a mapping of keys to values, such as name: quickstart; this is "
        raise ConfigError(reader.mark(node).say(message + _kind(node)))
    data = reader.read(node, ())
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    reader.values[()] = Mark(origin, 1, 1)
    return Document(data, origin, reader.keys, reader.values)


def parse_value(text: str, origin: str) -> Any:
    """Return one value, written as in YAML. Raises ConfigError."""
    try:
        node = _compose(text, "")
    except ConfigError as error:
        problem = str(error).partition("\n")[0].partition("is ")[2]
        raise ConfigError(f"{origin}: the value is {problem}") from None
    if node is None:
        return None
    reader = _Reader(origin, [])
    value = reader.read(node, ())
    if reader.problems:
        raise ConfigError(reader.problems[0])
    return value


def _compose(text: str, origin: str) -> Node | None:
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "broken"
        lines = text.splitlines()
        if mark is None:
            raise ConfigError(f"{origin}: is not valid YAML: {problem}") from None
        line = lines[mark.line] if mark.line < len(lines) else ""
        if "'\\t'" in problem:
            problem = "a tab stands where only spaces may; indent with spaces"
        elif error.context and error.context.startswith("expected a single document"):
            problem = "a second document begins here; an experiment is one document"
        elif problem.startswith("mapping values are not allowed"):
            problem = "a second ': ' in one line; quote the text, or begin a new line"
        raise ConfigError(_at(origin, mark.line, mark.column, line).say(f"is not valid YAML: {problem}")) from None
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{origin}:{line_number}: is not valid YAML: {error.reason}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{origin}: is nested too deeply") from None


def _at(origin: str, line: int, column: int, text: str) -> Mark:
    return Mark(origin, line + 1, column + 1, text.replace("\t", " "))


def _kind(node: Node) -> str:
    return "a list" if isinstance(node, SequenceNode) else f"the text {node.value!r}" if node.value else "nothing"


class _Reader:
    """Turns nodes into data, noting places and problems."""

    def __init__(self, origin: str, lines: list[str]) -> None:
        self.origin = origin
        self.lines = lines
        self.keys: dict[Path, Mark] = {}
        self.values: dict[Path, Mark] = {}
        self.problems: list[str] = []
        self._open: list[Node] = []
        self._count = 0

    def mark(self, node: Node) -> Mark:
        """Return where a node begins."""
        if not self.lines:
            return Mark(self.origin)
        line = node.start_mark.line
        return _at(self.origin, line, node.start_mark.column, self.lines[line] if line < len(self.lines) else "")

    def read(self, node: Node, path: Path) -> Any:
        """Return the data of a node, at a path."""
        self.values[path] = self.mark(node)
        self._count += 1
        if self._count > MAX_VALUES:
            raise ConfigError(
                f"{self.origin}: holds more than {MAX_VALUES:,} values, aliases written out; that is too many"
            )
        if any(node is other for other in self._open):
            self._wrong(node, "an alias refers to the value that it stands in; the loop has no end")
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if len(path) > MAX_DEPTH:
            raise ConfigError(f"{self.origin}: is nested too deeply")
        self._open.append(node)
        try:
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
        finally:
            self._open.pop()
        self._wrong(node, f"the tag {_short(node.tag)} is not supported; write plain values")
        return None

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[Node] = []
        seen: dict[str, Node] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged += value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                continue
            if not isinstance(key_node, ScalarNode):
                self._wrong(key_node, f"a key is plain text, this is {_kind(key_node)}")
                continue
            key = str(key_node.value)
            if key in seen:
                first = seen[key].start_mark.line + 1
                self._wrong(key_node, f"the key {key!r} stands here a second time, first in line {first}; remove one")
                continue
            seen[key] = key_node
            self.keys[(*path, key)] = self.mark(key_node)
            data[key] = self.read(value_node, (*path, key))
        for source in merged:
            if not isinstance(source, MappingNode):
                self._wrong(source, "<< takes a mapping, or a list of mappings")
                continue
            for key_node, value_node in source.value:
                key = str(key_node.value)
                if key not in data:
                    self.keys[(*path, key)] = self.mark(key_node)
                    data[key] = self.read(value_node, (*path, key))
        return data

    def _scalar(self, node: ScalarNode) -> Any:
        text, tag = str(node.value), node.tag.removeprefix(_TAG)
        try:
            match tag:
                case "str" | "merge":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return _integer(text)
                case "float":
                    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, KeyError):
            self._wrong(node, f"{text[:40]!r} is no {tag}")
            return None
        self._wrong(node, f"the tag {_short(node.tag)} is not supported; write plain values")
        return None

    def _wrong(self, node: Node, message: str) -> None:
        self.problems.append(self.mark(node).say(message))


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    for prefix, base in (("0x", 16), ("0o", 8)):
        if digits.startswith(prefix):
            return int(digits[2:], base)
    return int(digits)


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")
