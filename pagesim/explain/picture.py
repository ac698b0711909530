"""What the terminal and the page draw alike: letters for sequences, rows of slots, the clock of several walks."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Listing
from dataclasses import dataclass
from typing import Final

import numpy as np

from pagesim.explain.frames import Event, Frame, SequenceView, Walk
from pagesim.poolmap import CACHED, EXTERNAL, FREE, INTERNAL, KINDS, LIVE, NOBODY, RESERVED, WRITTEN, sample

MARKS: Final = {FREE: "_", EXTERNAL: "~", INTERNAL: "x", RESERVED: ".", WRITTEN: "+", LIVE: "", CACHED: "c"}
"""How a slot is drawn, by its kind; a stored one shows its sequence's letter."""

SHARED: Final = "&"

MEANINGS: Final = (
    ("A", "stored token of sequence A"),
    ("&", "stored once, shared by several"),
    ("+", "written in this step"),
    (".", "reserved: will be written later"),
    ("x", "internal waste: held, and never to be written"),
    ("~", "external waste: beyond what was asked for, or in no block"),
    ("c", "kept for reuse"),
    ("_", "free"),
)

MAX_CELLS: Final = 768
"""Of a larger pool one slot out of each run is drawn."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One character of the drawing: a slot, of a large pool one out of a run of them."""

    mark: str
    kind: str
    owner: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the pool: cells in groups, each a block where blocks are so small."""

    start: int
    groups: tuple[tuple[Cell, ...], ...]


class Letters:
    """A letter for each sequence, the same in every walk of the same requests."""

    def __init__(self, walks: Listing[Walk]) -> None:
        found = {(s.request, s.index) for walk in walks for frame in walk.frames for s in frame.sequences}
        self._place = {key: place for place, key in enumerate(sorted(found))}

    def place(self, sequence: SequenceView) -> int:
        """Return a sequence's number among all."""
        return self._place[sequence.request, sequence.index]

    def letter(self, sequence: SequenceView) -> str:
        """Return its letter; after Z they begin again."""
        return chr(ord("A") + self.place(sequence) % 26)


def slots_per_cell(walk: Walk) -> int:
    """Return how many slots a drawn cell stands for: a power of two, so that cells and blocks have common edges."""
    return 1 << max((walk.num_slots - 1) // MAX_CELLS, 0).bit_length()


def rows(walk: Walk, frame: Frame, letters: Letters, block_size: int, width: int = 16) -> Iterator[Row]:
    """Yield the pool of a frame as lines.

    Args:
        walk, frame: what to draw.
        letters: of the sequences.
        block_size: how many cells make a group where policies without blocks are drawn beside one with them.
        width: cells of a line, about.
    """
    per_cell = slots_per_cell(walk)
    cells = list(_cells(frame, letters, per_cell))
    group = block_size if per_cell == 1 and block_size > 1 else 8
    if group > 2 * width:
        group = width
    per_row = max(width // group, 1) * group
    for start in range(0, len(cells), per_row):
        line = cells[start : start + per_row]
        groups = tuple(tuple(line[at : at + group]) for at in range(0, len(line), group))
        yield Row(start * per_cell, groups)


def _cells(frame: Frame, letters: Letters, per_cell: int) -> Iterator[Cell]:
    slots = frame.slots
    kinds, owners = slots.kind, slots.owner
    shared = slots.sharers > 1
    if per_cell > 1:
        chosen = sample(len(kinds), per_cell)
        kinds, owners, shared = kinds[chosen], owners[chosen], shared[chosen]
    names = [letters.letter(sequence) for sequence in frame.sequences]
    places = [letters.place(sequence) for sequence in frame.sequences]
    for kind, owner, is_shared in zip(kinds.tolist(), owners.tolist(), shared.tolist(), strict=True):
        mark = MARKS[kind] or (SHARED if is_shared else names[owner])
        name = "shared" if kind == LIVE and is_shared else KINDS[kind]
        yield Cell(mark, name, None if owner == NOBODY or kind in (FREE, CACHED) else places[owner])


def account(frame: Frame) -> dict[str, int]:
    """Return how many slots there are of each kind."""
    counts = np.bincount(frame.slots.kind, minlength=len(KINDS))
    return {name: int(counts[code]) for code, name in enumerate(KINDS)}


def instants(walks: Listing[Walk]) -> list[tuple[int, list[Frame | None]]]:
    """Return every tick at which a step of a walk begins, with the frame of each walk that begins then."""
    by_time = [{frame.start: frame for frame in walk.frames} for walk in walks]
    times = sorted({time for frames in by_time for time in frames})
    return [(time, [frames.get(time) for frames in by_time]) for time in times]


def is_quiet(frame: Frame | None, previous: Frame | None) -> bool:
    """Return whether a step only stores one more token of each running sequence, like the one before."""
    if frame is None:
        return True
    if previous is None or frame.prefills or frame.ops:
        return False
    return _news(frame.events) == [] and _waits(frame.events) == _waits(previous.events)


def _news(events: Listing[Event]) -> list[Event]:
    return [event for event in events if event.kind != "waits"]


def _waits(events: Listing[Event]) -> list[str]:
    return [event.text for event in events if event.kind == "waits"]
