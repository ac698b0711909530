"""Conditions on a comparison: ``paged.throughput_output_tokens_per_s < 2 * max.throughput_output_tokens_per_s``.

    condition = relation (("and" | "or") relation)*        relation = sum ("<" | "<=" | ...) sum
    sum       = product (("+" | "-") product)*             product  = unary (("*" | "/") unary)*
    unary     = "-" unary | number | [row "."] column | "(" condition | sum ")"

``and`` binds closer than ``or``. A row's name may contain ``-``, so a minus has spaces around it; a name with
other signs is quoted: ``"my row".utilization``. A column without a row stands for every row in turn.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NoReturn

from pagesim.errors import ConfigError
from pagesim.plugins import nearest

Look = Callable[[str | None, str], float]
"""Gives the value of (row, column); row None is the row whose turn it is."""

MAX_LENGTH: Final = 1000
MAX_DEPTH: Final = 30
"""Signs and parentheses inside each other."""

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<reference> (?: "(?P<quoted>[^"]+)" | (?P<row>(?:[A-Z]+/)?[A-Za-z0-9][A-Za-z0-9_-]*) ) \.
                       (?P<column>[A-Za-z_][A-Za-z0-9_]*) )
      | (?P<number> (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)? )
      | (?P<word> [A-Za-z_][A-Za-z0-9_]* )
      | (?P<sign> <=|>=|==|!=|[-<>+*/()] )
    )""",
    re.VERBOSE,
)
_RELATIONS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_SUMS: Final[dict[str, Callable[[float, float], float]]] = {"+": operator.add, "-": operator.sub}
_PRODUCTS: Final[dict[str, Callable[[float, float], float]]] = {"*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True)
class _Part:
    """A part of a condition: how it is evaluated, and whether it is true or false rather than a number."""

    value: Callable[[Look], float]
    is_truth: bool


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    row: str | None = None
    column: str = ""


class Condition:
    """A condition that can be evaluated.

    Args:
        text: as it was written.
        rows: names that it may use.
        columns: of numbers, which it may use.

    Attributes:
        references: the (row, column) that it names; row None where it stands for every row.

    Raises ConfigError where it is no condition, with the nearest name.
    """

    def __init__(self, text: str, rows: Collection[str], columns: Collection[str]) -> None:
        self.text = " ".join(text.split())
        self.references: list[tuple[str | None, str]] = []
        self._rows = rows
        self._columns = columns
        if len(self.text) > MAX_LENGTH:
            raise ConfigError(f"a condition of more than {MAX_LENGTH} characters is not read")
        self._tokens = self._split()
        self._next = 0
        self._depth = 0
        part = self._any_of()
        if self._next < len(self._tokens):
            self._wrong(f"{self._tokens[self._next].text!r} is not expected there")
        if not part.is_truth:
            self._wrong("nothing is compared; write one of <, <=, >, >=, ==, !=")
        self._part = part

    @property
    def is_for_every_row(self) -> bool:
        """Whether a column stands without a row."""
        return any(row is None for row, _ in self.references)

    def holds(self, look: Look) -> bool:
        """Return whether the condition holds. Raises ZeroDivisionError, and whatever ``look`` raises."""
        return bool(self._part.value(look))

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                self._wrong(f"{self.text[position:].strip()[:10]!r} cannot be read")
            kind = str(match.lastgroup if match["reference"] is None else "reference")
            tokens.append(
                _Token(kind, match[kind], match["quoted"] or match["row"], match["column"])
                if kind == "reference"
                else _Token(kind, match[kind])
            )
            position = match.end()
        return tokens

    def _any_of(self) -> _Part:
        return self._joined("or", self._all_of, lambda a, b: a or b)

    def _all_of(self) -> _Part:
        return self._joined("and", self._relation, lambda a, b: a and b)

    def _joined(self, word: str, part: Callable[[], _Part], join: Callable[[float, float], float]) -> _Part:
        left = part()
        while self._take(word):
            right = part()
            if not (left.is_truth and right.is_truth):
                self._wrong(f"{word!r} joins comparisons, not numbers")
            left = _Part(_both(left, right, join), is_truth=True)
        return left

    def _relation(self) -> _Part:
        left = self._chain(_SUMS, lambda: self._chain(_PRODUCTS, self._unary))
        sign = self._take(*_RELATIONS)
        if not sign:
            return left
        right = self._chain(_SUMS, lambda: self._chain(_PRODUCTS, self._unary))
        if left.is_truth or right.is_truth or self._take(*_RELATIONS):
            self._wrong("a comparison has a number on either side; join two comparisons with 'and'")
        return _Part(_both(left, right, _RELATIONS[sign]), is_truth=True)

    def _chain(self, signs: dict[str, Callable[[float, float], float]], part: Callable[[], _Part]) -> _Part:
        left = part()
        while sign := self._take(*signs):
            right = part()
            if left.is_truth or right.is_truth:
                self._wrong(f"{sign!r} takes numbers, not comparisons")
            left = _Part(_both(left, right, signs[sign]), is_truth=False)
        return left

    def _unary(self) -> _Part:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._wrong(f"it is nested more than {MAX_DEPTH} deep")
        part = self._nested()
        self._depth -= 1
        return part

    def _nested(self) -> _Part:
        if self._take("-"):
            part = self._unary()
            if part.is_truth:
                self._wrong("'-' takes a number, not a comparison")
            return _Part(lambda look: -part.value(look), is_truth=False)
        if self._take("("):
            part = self._any_of()
            if not self._take(")"):
                self._wrong("a ')' is missing")
            return part
        return self._atom()

    def _atom(self) -> _Part:
        if self._next == len(self._tokens):
            self._wrong("it ends where a number or row.column is expected")
        token = self._tokens[self._next]
        self._next += 1
        if token.kind == "number":
            number = float(token.text)
            return _Part(lambda look: number, is_truth=False)
        if token.kind == "sign" or token.text in ("and", "or"):
            self._wrong(f"{token.text!r} stands where a number or row.column is expected")
        return self._reference(token)

    def _reference(self, token: _Token) -> _Part:
        row, column = token.row, token.column or token.text
        if row is not None and row not in self._rows:
            minus = "; a minus needs spaces around it" if "-" in row else ""
            self._wrong(f"there is no row {row!r}{nearest(row, self._rows)}; rows: {', '.join(self._rows)}{minus}")
        if column not in self._columns:
            if row is None and column in self._rows:
                self._wrong(f"{column!r} is a row; write {column}.COLUMN, such as {column}.utilization")
            self._wrong(f"there is no column of numbers {column!r}{nearest(column, self._columns)}")
        self.references.append((row, column))
        return _Part(lambda look: look(row, column), is_truth=False)

    def _take(self, *texts: str) -> str:
        if self._next < len(self._tokens) and self._tokens[self._next].text in texts:
            self._next += 1
            return self._tokens[self._next - 1].text
        return ""

    def _wrong(self, problem: str) -> NoReturn:
        raise ConfigError(f"the condition {self.text!r} is wrong: {problem}")


def _both(left: _Part, right: _Part, join: Callable[[float, float], float]) -> Callable[[Look], float]:
    return lambda look: join(left.value(look), right.value(look))
