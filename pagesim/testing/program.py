"""A program that was run on a policy, as Python that can be pasted into a test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pagesim.testing.job import Job
from pagesim.testing.policies import Policy

_WIDTH = 110
_REQUEST = {"sequences": 1, "estimate": None, "group": None}


def call(name: str, *positional: str, **keywords: Any) -> str:
    """Return the text of a call."""
    arguments = [*positional, *(f"{key}={value!r}" for key, value in keywords.items())]
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), ")"])


def given(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that differ from their defaults."""
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}


class Call(NamedTuple):
    """One call on a bench.

    Attributes:
        verb: the method.
        arguments: requests and numbers, by position.
        keywords: the others.
        made: the request that it made.
        note: what came of it, if that was not the usual.
    """

    verb: str
    arguments: tuple[Job | int, ...] = ()
    keywords: Mapping[str, int | None] = MappingProxyType({})
    made: Job | None = None
    note: str = ""

    @property
    def jobs(self) -> list[Job]:
        """The requests that it is about."""
        return [each for each in self.arguments if isinstance(each, Job)]

    @property
    def numbers(self) -> list[int]:
        """The numbers that it gives by position."""
        return [each for each in self.arguments if isinstance(each, int)]

    def __str__(self) -> str:
        """Return its line in a program; arguments that are as by default are left out."""
        shown = [str(each) for each in self.arguments if (self.verb, each) != ("decode", 1)]
        target = "" if self.made is None else f"{self.made} = "
        line = call(f"{target}bench.{self.verb}", *shown, **given(self.keywords, _REQUEST))
        return f"{line}  # {self.note}" if self.note else line


class Expression(str):
    """Text that stands in a program as it is."""

    __slots__ = ()

    __repr__ = str.__str__


def as_test(policy: Policy, imported: str, lines: Iterable[str], imports: Iterable[str] = ()) -> str:
    """Return a test function that runs ``lines``, with its imports.

    Args:
        policy: under test; the lines call it ``policy``.
        imported: the name that the lines need from ``pagesim.testing``.
        lines: statements, each of one or more lines.
        imports: what else they need.
    """
    needed, expression = policy.source()
    texts = list(lines)
    if expression.replace(".", "").isidentifier():
        texts = [re.sub(r"\bpolicy(?=,)", expression, text, count=1) for text in texts]
    else:
        texts.insert(0, f"policy = {expression}")
    order = sorted({*needed, *imports, f"from pagesim.testing import {imported}"})
    standard = [line for line in order if line.startswith("from pathlib")]
    head = [*standard, *([""] if standard else []), *(line for line in order if line not in standard)]
    body = [f"    {line}".rstrip() for text in texts for line in text.splitlines()]
    return "\n".join([*head, "", "", f"def {policy.test_name()}() -> None:", *body]) + "\n"
