"""Rows that are appended and read in chunks, and their order."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagesim import rows
from pagesim.errors import InvariantError
from pagesim.rows import InOrder, Rows


@pytest.fixture(autouse=True)
def _few_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 8)


def table(count: int, folder: Path | None = None) -> Rows:
    """Return rows (0, 0), (1, 1), (2, 4), ..., the last of them appended in bulk."""
    found = Rows(2, folder)
    for number in range(count // 2):
        found.append((number, number**2))
    rest = np.arange(count // 2, count)
    found.extend(np.stack([rest, rest**2], axis=1))
    return found


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 40])
@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_rows_come_back_in_chunks(count: int, size: int) -> None:
    found = table(count)
    expected = [[number, number**2] for number in range(count)]
    assert len(found) == count
    assert [row for chunk in found.chunks(size) for row in chunk.tolist()] == expected
    assert all(len(chunk) == size for chunk in list(found.chunks(size))[:-1])
    for first in range(0, count + 1, 3):
        assert found.read(first, count).tolist() == expected[first:]


def test_two_readers_and_a_writer_do_not_disturb_one_another() -> None:
    found = table(20)
    one, other = found.chunks(5), found.chunks(7)
    assert (len(next(one)), next(other)[-1, 0]) == (5, 6)
    found.append((20, 400))
    assert next(one)[:, 0].tolist() == [5, 6, 7, 8, 9]
    assert next(other)[:, 0].tolist() == [7, 8, 9, 10, 11, 12, 13]
    assert found.read(18, 21)[:, 0].tolist() == [18, 19, 20]


def test_what_is_read_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        table(9).read(0, 9)[0, 0] = 1


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    found = table(100, tmp_path)
    assert len(found.read(0, 100)) == 100
    del found
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@given(order=st.permutations(range(12)), missing=st.sets(st.integers(0, 11)))
def test_rows_that_end_in_any_order_are_sorted(order: list[int], missing: set[int]) -> None:
    in_order = InOrder(Rows(2))
    ended = [number for number in order if number not in missing]
    for number in ended:
        in_order.add((number, -number))
    assert in_order.finish().read(0, len(ended)).tolist() == [[number, -number] for number in sorted(ended)]
    assert in_order.num_early == 0


@given(order=st.permutations(range(12)))
def test_only_rows_that_are_early_wait(order: list[int]) -> None:
    in_order = InOrder(Rows(1))
    for place, number in enumerate(order):
        in_order.add((number,))
        ended = set(order[: place + 1])
        first_missing = next(number for number in range(13) if number not in ended)
        assert in_order.num_early == len(ended) - first_missing


@pytest.mark.parametrize("second", [0, 5])
def test_a_row_comes_once(second: int) -> None:
    in_order = InOrder(Rows(1))
    for number in (0, 1, 5):
        in_order.add((number,))
    with pytest.raises(InvariantError, match=f"request {second} ends a second time"):
        in_order.add((second,))


def test_rows_are_read_by_several_at_a_time() -> None:
    rows = Rows(3)
    table = np.arange(3 * 40_000, dtype=np.int64).reshape(-1, 3)
    rows.extend(table)

    def read(size: int) -> bool:
        return np.array_equal(np.concatenate(list(rows.chunks(size))), table)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, [64, 100, 640, 64] * 8))
