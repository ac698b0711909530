"""Conditions on a comparison: what they mean, and what is said of bad ones."""

from __future__ import annotations

import pytest

from pagesim.errors import ConfigError
from pagesim.report.condition import MAX_LENGTH, Condition

ROWS = ["max", "paged", "max-pow2", "2nd", "A/cow"]
COLUMNS = ["utilization", "ttft_p99_s"]
VALUES = {"max": 2.0, "paged": 8.0, "max-pow2": 3.0, "2nd": 5.0, "A/cow": 7.0, None: 4.0}


def holds(text: str) -> bool:
    return Condition(text, ROWS, COLUMNS).holds(lambda row, column: VALUES[row] + (column == "ttft_p99_s") * 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paged.utilization < 2 * max.utilization", False),
        ("paged.utilization < 5 * max.utilization", True),
        ("paged.utilization == 8", True),
        ("paged.utilization != 8", False),
        ("paged.utilization >= 8.0", True),
        ("paged.utilization<=7.9e0", False),
        ("paged.ttft_p99_s > 8.4", True),
        ("max-pow2.utilization - max.utilization == 1", True),
        ("paged.utilization-max-pow2.utilization == 5", True),
        ("2nd.utilization == 5", True),
        ("A/cow.utilization == 7", True),
        ('"A/cow".utilization / "max".utilization == 3.5', True),
        ("1 + 2 * 3 == 7", True),
        ("(1 + 2) * 3 == 9", True),
        ("8 / 4 / 2 == 1", True),
        ("8 - 4 - 2 == 2", True),
        ("-max.utilization < -.5", True),
        ("--1 == 1", True),
        ("1 < 2 and 2 < 1", False),
        ("1 < 2 or 2 < 1", True),
        ("1 < 2 or 1 < 2 and 2 < 1", True),
        ("(1 < 2 or 1 < 2) and 2 < 1", False),
        ("utilization > 3", True),
        ("  paged.utilization \n > 1 ", True),
    ],
)
def test_meaning(text: str, expected: bool) -> None:
    assert holds(text) is expected


def test_what_it_names_is_known() -> None:
    condition = Condition("paged.utilization < utilization", ROWS, COLUMNS)
    assert condition.references == [("paged", "utilization"), (None, "utilization")]
    assert condition.is_for_every_row
    assert not Condition("paged.utilization < 1", ROWS, COLUMNS).is_for_every_row


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it ends where a number or row.column is expected"),
        ("paged.utilization", "nothing is compared"),
        ("paged.utilization <", "it ends where"),
        ("< 1", "'<' stands where a number or row.column is expected"),
        ("and < 1", "'and' stands where"),
        ("paged.utilization < 1 2", "'2' is not expected there"),
        ("paged.utilization < 1 < 2", "join two comparisons with 'and'"),
        ("(paged.utilization < 1", "a ')' is missing"),
        ("paged.utilization < 1)", "')' is not expected there"),
        ("1 + (1 < 2) > 1", "'+' takes numbers, not comparisons"),
        ("-(1 < 2) > 1", "'-' takes a number, not a comparison"),
        ("1 < 2 and 3", "'and' joins comparisons, not numbers"),
        ("(1 < 2) == (2 < 3)", "a comparison has a number on either side"),
        ("pagd.utilization < 1", "there is no row 'pagd'; did you mean 'paged'?; rows: max, paged"),
        ("paged.utilisation < 1", "there is no column of numbers 'utilisation'; did you mean 'utilization'?"),
        ("utilisation < 1", "did you mean 'utilization'?"),
        ("paged < 1", "'paged' is a row; write paged.COLUMN"),
        ("1-max.utilization < 1", "a minus needs spaces around it"),
        ("paged.utilization = 1", "'= 1' cannot be read"),
        ("paged.utilization < 1; import os", "cannot be read"),
        ("__import__('os').system('ls')", "cannot be read"),
        ("paged.utilization ** 2 < 1", "'*' stands where"),
        ("1 < " + "1 + " * MAX_LENGTH + "1", "more than 1000 characters"),
        ("(" * 900 + "1", "it is nested more than 30 deep"),
    ],
)
def test_bad_ones_are_told_in_a_sentence(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Condition(text, ROWS, COLUMNS)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dividing_by_nothing_is_left_to_the_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        holds("1 / 0 < 1")
