"""Snapshots of the pool over a run, at instants that all allocators have in common, for the page to play.

A recorder stops at the edges of its bins anyway, so nothing is slower between two snapshots. Their
distance is a power of two times the first bin's width: when there are too many, every other one is
dropped, and the instants of a run with fewer are among those of one with more.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pagesim.poolmap import KINDS, LIVE, NOBODY, sample, slot_map
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Scheduler
from pagesim.sequence import Sequence
from pagesim.units import TICKS_PER_SECOND

MAX_SNAPSHOTS: Final = 240
MAX_CELLS: Final = 2048
DEFAULT_MAX_SLOTS: Final = 1 << 15
"""Pools of up to so many slots are kept where the experiment says nothing."""

DEFAULT_MAX_REQUESTS: Final = 10_000
"""In runs of up to so many requests: longer ones are served many times faster if nobody looks at blocks."""

SHARED_BIT: Final = 0x80
"""Set in a cell's kind where several sequences share it."""

NO_OWNER: Final = 0xFFFFFFFF


class MemoryLog:
    """Thinned snapshots of one run's pool.

    Args:
        num_slots: of the device.
        first_width: ticks between snapshots at the beginning.
        expected: ticks that the run takes at least, 0 if that is not known.
    """

    def __init__(self, num_slots: int, first_width: int, expected: int = 0) -> None:
        self.num_slots = num_slots
        self.slots_per_cell = 1 << max((num_slots - 1) // MAX_CELLS, 0).bit_length()
        self.width = first_width
        while expected >= self.width * MAX_SNAPSHOTS:
            self.width *= 2
        self._times: list[int] = []
        self._snapshots: list[dict[str, Any]] = []

    def mark(self, time: int, scheduler: Scheduler) -> None:
        """Take a snapshot if it is time for one."""
        if time % self.width:
            return
        self._times.append(time)
        self._snapshots.append(self._look(scheduler))
        if len(self._times) > MAX_SNAPSHOTS:
            self.width *= 2
            kept = [place for place, time in enumerate(self._times) if not time % self.width]
            self._times = [self._times[place] for place in kept]
            self._snapshots = [self._snapshots[place] for place in kept]

    def table(self) -> dict[str, Any]:
        """Return the columns of ``memory.parquet``, one row a snapshot.

        ``owner`` holds a little-endian uint32 a cell, the request or ``NO_OWNER``; ``kind`` a byte a cell, the
        code of ``KINDS`` with ``SHARED_BIT``. The slots of each kind are counted before cells are made.
        """
        columns: dict[str, Any] = {"t_s": [time / TICKS_PER_SECOND for time in self._times]}
        columns |= {name: [row[name] for row in self._snapshots] for name in _COLUMNS}
        count = len(self._snapshots)
        columns["num_slots"] = np.full(count, self.num_slots)
        columns["slots_per_cell"] = np.full(count, self.slots_per_cell)
        return columns

    def _look(self, scheduler: Scheduler) -> dict[str, Any]:
        sequences = [sequence for sequence in holders(scheduler) if sequence.block_table]
        slots = slot_map(scheduler.pool, sequences, self.num_slots)
        counts = np.bincount(slots.kind, minlength=len(KINDS))
        chosen = sample(self.num_slots, self.slots_per_cell)
        kind, owner = slots.kind[chosen], slots.owner[chosen]
        shared = (slots.sharers[chosen] > 1) & (kind == LIVE)
        requests: NDArray[np.uint32] = np.array([s.request.id for s in sequences] + [NO_OWNER], np.uint32)
        owners = requests[np.where(owner == NOBODY, len(sequences), owner)]
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "swapped": len(scheduler.swapped),
            "is_refused": scheduler.refused_by_allocator,
            "block_size": scheduler.pool.block_size,
            **{f"{name}_slots": int(counts[code]) for code, name in enumerate(KINDS) if name != "written"},
            "owner": owners.astype("<u4").tobytes(),
            "kind": (kind | (shared * SHARED_BIT).astype(np.uint8)).tobytes(),
        }


_COLUMNS: Final = (
    "running",
    "waiting",
    "swapped",
    "is_refused",
    "block_size",
    *(f"{name}_slots" for name in KINDS if name != "written"),
    "owner",
    "kind",
)


class SnapshotRecorder(Recorder):
    """A recorder that also keeps snapshots of the pool, at edges of its bins."""

    log: MemoryLog | None = None

    @property
    def watches_pool(self) -> bool:
        """Whether there is a log."""
        return self.log is not None

    def _mark(self) -> None:
        super()._mark()
        if self.log is not None:
            self.log.mark(self.time, self.scheduler)


def holders(scheduler: Scheduler) -> list[Sequence]:
    """Return every sequence with memory, in the order of admission; those of a batch that have ended too."""
    retired: list[Sequence] = getattr(scheduler.queues.memory, "retired", [])
    requests = dict.fromkeys(chain(scheduler.running, scheduler.swapped, (sequence.request for sequence in retired)))
    found = (sequence for request in requests for sequence in request.sequences)
    return [s for s in found if s.block_table or s.host_table or s.resident_table]
