"""Any request of a workload, though it only gives them one after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from pagesim.workload.data import Chunk, Workload

SIZE: Final = 4096
"""Requests of a chunk."""

_KEPT: Final = 8
_CURSORS: Final = 3


class Access:
    """Gives the chunk that a request is in.

    A few readers follow those who ask: requests that arrive, and those that leave a queue far behind them. So
    whoever goes forward, or a little back, costs nothing; a jump back starts a reader anew, which draws all requests
    up to there, some 50 ns each.

    Args:
        workload: is read ``SIZE`` requests at a time.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._kept: OrderedDict[int, Chunk] = OrderedDict()
        self._cursors: list[tuple[int, Iterator[Chunk]]] = []  # next chunk, and what gives it; the last used is last

    def __getitem__(self, request: int) -> Chunk:
        """Return the chunk with request ``request``. Raises IndexError if there is none."""
        if not 0 <= request < len(self._workload):
            raise IndexError(f"the workload has requests 0 to {len(self._workload) - 1}, not {request}")
        place = request // SIZE
        chunk = self._kept.get(place)
        return self._read(place) if chunk is None else chunk

    def _read(self, place: int) -> Chunk:
        behind = [at for at, (coming, _) in enumerate(self._cursors) if coming <= place]
        if behind:
            coming, chunks = self._cursors.pop(max(behind, key=lambda at: self._cursors[at][0]))
        else:
            coming, chunks = 0, self._workload.chunks(SIZE)
        for _ in range(coming, place):
            next(chunks)
        chunk = next(chunks)
        self._cursors = [*self._cursors, (place + 1, chunks)][-_CURSORS:]
        self._kept[place] = chunk
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return chunk
