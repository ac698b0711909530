"""Small mistakes that could be made in a Python file: one change of the syntax tree each.

    n -> n + 1, n - 1        a < b -> a <= b            a == b -> a != b          x in y -> x not in y
    a + b -> a - b           a // b -> a * b            a << b -> a >> b          a and b -> a or b
    min -> max               any -> all                 f(a, b) -> f(b, a)        True -> False
    if a: -> if not a:       not a -> a                 x += 1 -> x -= 1          break -> continue
    a statement is left out

What only people read is left alone: docstrings, annotations, the messages of errors; so are imports and decorators.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_DROPPED = (ast.Assign, ast.AugAssign, ast.Delete, ast.Raise, ast.Break, ast.Continue)


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        path: of the file, from the root of the tree.
        line: where it is.
        what: in words.
        original, text: the whole file before and after.
    """

    path: str
    line: int
    what: str
    original: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"

    @property
    def diff(self) -> str:
        """The lines that change, with one line around them."""
        before, after = self.original.splitlines(), self.text.splitlines()
        lines = list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
        return "\n".join(lines)

    @property
    def change(self) -> list[str]:
        """The lines that change, without their indentation: what stays the same when others move it."""
        return [line[0] + " " + line[1:].strip() for line in self.diff.splitlines() if line[0] in "+-"]


def mutants(root: Path, path: str) -> Iterator[Mutant]:
    """Yield every mutant of a file that can be compiled, in the order of its lines."""
    original = (root / path).read_text(encoding="utf-8")
    seen = {original}
    for node in _code(ast.parse(original)):
        for what, changed in _changes(node):
            text = _replaced(original, node, changed)
            if text not in seen and _compiles(text):
                seen.add(text)
                yield Mutant(path, node.lineno, what, original, text)


def _code(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Yield what is executed and means something, from the top."""
    if isinstance(node, ast.expr | ast.stmt):
        yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases"):
            continue
        if field == "exc":  # the message of an error
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_for_readers(child):
                yield from _code(child)


def _is_for_readers(node: ast.AST) -> bool:
    """Whether a part is an import, text, or what a module says it has."""
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    return isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr)


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Constant(value=bool(value)):
            yield f"{value} -> {not value}", ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield f"{value} -> {value + 1}", ast.Constant(value + 1)
            yield f"{value} -> {value - 1}", ast.Constant(value - 1)
        case ast.Compare(ops=ops):
            for index, operator in enumerate(ops):
                other = _COMPARISONS[type(operator)]
                yield (
                    f"{type(operator).__name__} -> {other.__name__}",
                    _with(node, ops=[*ops[:index], other(), *ops[index + 1 :]]),
                )
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in _OPERATORS:
            another = _OPERATORS[type(operator)]
            yield f"{type(operator).__name__} -> {another.__name__}", _with(node, op=another())
        case ast.BoolOp(op=operator):
            swapped = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield f"{type(operator).__name__} -> {type(swapped).__name__}", _with(node, op=swapped)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield f"{type(node.op).__name__} is left out", operand
        case ast.Name(id=name, ctx=ast.Load()) if name in _NAMES:
            yield f"{name} -> {_NAMES[name]}", ast.Name(_NAMES[name])
        case ast.Call(func=ast.Name(id="min" | "max")):  # of which the order of the arguments means nothing
            pass
        case ast.Call(args=[first, second, *rest]) if not _is_starred(first, second):
            yield "arguments swapped", _with(node, args=[second, first, *rest])
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield "condition negated", _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Break():
            yield "break -> continue", ast.Continue()
    if isinstance(node, _DROPPED) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield "statement left out", ast.Pass()


def _is_starred(*nodes: ast.expr) -> bool:
    return any(isinstance(node, ast.Starred) for node in nodes)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = deepcopy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _replaced(source: str, node: ast.expr | ast.stmt, changed: ast.AST) -> str:
    """Return the source with a node written anew; of an ``if`` or ``while`` only the condition."""
    if isinstance(node, ast.If | ast.While) and isinstance(changed, ast.If | ast.While):
        node, changed = node.test, changed.test
    text = ast.unparse(ast.fix_missing_locations(changed))
    if isinstance(changed, ast.BoolOp | ast.BinOp | ast.UnaryOp | ast.IfExp | ast.Compare):
        text = f"({text})"
    lines = [line.encode() for line in source.splitlines(keepends=True)]
    assert node.end_lineno is not None
    head = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    tail = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    return (head + text.encode() + tail).decode()


def _compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True
