"""Rows of integers that are appended now and read in chunks later: a few in memory, the others in a temporary file.

The file has no name where the system allows that, so a killed process leaves nothing behind.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from pagesim.errors import InvariantError

CHUNK: Final = 1 << 14
"""So many rows are held in memory, and read at a time unless somebody asks for another number."""

Integers = NDArray[np.int64]
Row = tuple[int, ...]


class Rows:
    """A table of int64 that only grows. What it holds in memory does not depend on its length.

    Args:
        width: numbers in a row.
        folder: where the temporary file is made; the system's by default.

    Raises OSError, from any method, where the file cannot be written or read.
    """

    def __init__(self, width: int, folder: Path | None = None) -> None:
        self.width = width
        self.folder = folder
        self._recent = array("q")  # behind those in the file
        self._most_recent = CHUNK * width
        self._file: IO[bytes] | None = None
        self._num_stored = 0

    def __len__(self) -> int:
        return self._num_stored + len(self._recent) // self.width

    def append(self, row: Iterable[int]) -> None:
        """Append one row."""
        self._recent.extend(row)
        if len(self._recent) >= self._most_recent:
            self._store()

    def extend(self, rows: Integers) -> None:
        """Append (n, width) rows."""
        self._recent.frombytes(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
        if len(self._recent) >= self._most_recent:
            self._store()

    def read(self, first: int, last: int) -> Integers:
        """Return the rows from ``first`` up to ``last``, (last - first, width) of them; they cannot be written."""
        parts = []
        if self._file is not None and first < self._num_stored:
            parts.append(self._read_file(first * self.width * 8, min(last, self._num_stored) * self.width * 8))
        if last > self._num_stored:
            begin = max(first - self._num_stored, 0) * self.width
            parts.append(self._recent[begin : (last - self._num_stored) * self.width].tobytes())
        return np.frombuffer(b"".join(parts), dtype=np.int64).reshape(-1, self.width)

    def chunks(self, size: int | None = None) -> Iterator[Integers]:
        """Yield all rows, ``size`` at a time; by default ``CHUNK``."""
        size = size or CHUNK
        for first in range(0, len(self), size):
            yield self.read(first, min(first + size, len(self)))

    def _temporary(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile(prefix=".pagesim-", suffix=".part", dir=self.folder)
        except OSError as error:
            where = "the system's temporary folder (TMPDIR names another)" if self.folder is None else f"{self.folder}"
            raise OSError(error.errno, f"no temporary file can be made in {where}: {error.strerror}") from None

    def _read_file(self, begin: int, end: int) -> bytes:
        """Return bytes of the file. Others may read it at the same time, threads or processes: no place is kept."""
        assert self._file is not None
        parts = []
        while begin < end:
            part = os.pread(self._file.fileno(), end - begin, begin)
            if not part:
                raise OSError(f"a temporary file of {self._num_stored} rows ends at byte {begin}")
            parts.append(part)
            begin += len(part)
        return b"".join(parts)

    def _store(self) -> None:
        if self._file is None:
            self._file = self._temporary()
            weakref.finalize(self, self._file.close)
        self._file.seek(0, 2)
        self._file.write(self._recent)
        self._file.flush()
        self._num_stored = len(self)
        self._recent = array("q")


class InOrder:
    """Puts rows into the order of their first number, which counts from 0; they come in any order.

    A row waits for those before it. So memory is that of the rows that are early, not of all: as many as
    requests that end before one that came before them.

    Args:
        rows: where rows go when it is their turn.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._next = 0
        self._early: dict[int, Row] = {}

    @property
    def num_early(self) -> int:
        """How many rows wait for an earlier one."""
        return len(self._early)

    def add(self, row: Row) -> None:
        """Take a row. Raises InvariantError if there was one of this number."""
        number = row[0]
        if number == self._next:
            self._rows.append(row)
            number += 1
            early = self._early
            while early and (following := early.pop(number, None)) is not None:
                self._rows.append(following)
                number += 1
            self._next = number
        elif number < self._next or self._early.setdefault(number, row) is not row:
            raise InvariantError(f"INV-7: request {number} ends a second time")

    def finish(self) -> Rows:
        """Return the rows; those whose turn never came, since a number is missing, stand last, in their order."""
        for number in sorted(self._early):
            self._rows.append(self._early[number])
            self._next = number + 1
        self._early.clear()
        return self._rows
