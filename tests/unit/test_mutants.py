"""The mistakes that are planted to see whether the tests notice."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.mutants import Mutant, mutants


def changes(tmp_path: Path, text: str) -> list[str]:
    """Return each changed line of every mutant of a file."""
    (tmp_path / "code.py").write_text(text, encoding="utf-8")
    found = list(mutants(tmp_path, "code.py"))
    for mutant in found:
        compile(mutant.text, "code.py", "exec")
        assert mutant.original == text
    return [line[2:] for mutant in found for line in mutant.change if line.startswith("+")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = a < b", ["pass", "x = (a <= b)"]),
        ("x = a == b", ["pass", "x = (a != b)"]),
        ("x = a not in b", ["pass", "x = (a in b)"]),
        ("x = 3", ["pass", "x = 4", "x = 2"]),
        ("x = a - b * c", ["pass", "x = (a + b * c)", "x = a - (b // c)"]),
        ("x = a and not b", ["pass", "x = (a or not b)", "x = a and b"]),
        ("x = -a", ["pass", "x = a"]),
        ("x += a", ["pass", "x -= a"]),
        ("f(a, b, *c)", ["pass", "f(b, a, *c)"]),
        ("f(*a, b)", ["pass"]),
        ("x = min(a, b)", ["pass", "x = max(a, b)"]),
        ("x = True", ["pass", "x = False"]),
        ("while a:\n    break", ["while (not a):", "pass", "continue"]),
        ("x = a if b else c", ["pass", "x = (a if not b else c)"]),
        ("if a:\n    del b", ["if (not a):", "pass"]),
        ('"""Text."""\nimport a\n__all__ = ["b"]\nx: int', []),
        (
            'def f(a: int = 1) -> None:\n    raise ValueError(f"{a + 1}", 2)',
            ["def f(a: int = 2) -> None:", "def f(a: int = 0) -> None:", "pass"],
        ),
    ],
)
def test_what_is_planted(text: str, expected: list[str], tmp_path: Path) -> None:
    assert sorted(changes(tmp_path, text + "\n")) == sorted(expected)


def test_a_mutant_is_known_by_its_file_and_its_lines() -> None:
    before = "def f():\n    a = 1\n    return a\n"
    mutant = Mutant("code.py", 2, "1 -> 2", before, before.replace("1", "2"))
    assert str(mutant) == "code.py:2: 1 -> 2"
    assert mutant.change == ["- a = 1", "+ a = 2"]
    assert mutant.diff.splitlines() == ["@@ -1,3 +1,3 @@", " def f():", "-    a = 1", "+    a = 2", "     return a"]


def test_lines_with_letters_of_two_bytes_are_cut_in_the_right_place(tmp_path: Path) -> None:
    assert changes(tmp_path, "x = 'é' + a\n") == ["pass", "x = ('é' - a)"]
