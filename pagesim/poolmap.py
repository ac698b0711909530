"""What stands in every slot of the device pool, read off the block tables at one instant.

table [2, 0] of a sequence with 6 stored tokens, block size 4:

block     0         1         2
slots     L L R R   . . . .   L L L L        L stored, R will be written, . free
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from collections.abc import Sequence as Listing
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagesim.blocks import BlockPool
from pagesim.sequence import Sequence

FREE: Final = 0
EXTERNAL: Final = 1
INTERNAL: Final = 2
RESERVED: Final = 3
WRITTEN: Final = 4
LIVE: Final = 5
CACHED: Final = 6

KINDS: Final = ("free", "external", "internal", "reserved", "written", "live", "cached")
"""What a slot can be, by its code: the parts of the account, and ``written``: by the step under way."""

NOBODY: Final = -1


class SlotMap(NamedTuple):
    """All slots of the device, the tail outside whole blocks included.

    Attributes:
        kind: (num_slots,) codes of ``KINDS``.
        owner: (num_slots,) place in the list of sequences of the first one that holds it, or ``NOBODY``.
        sharers: (num_slots,) references to the slot's block.
    """

    kind: NDArray[np.uint8]
    owner: NDArray[np.int32]
    sharers: NDArray[np.int32]


def slot_map(
    pool: BlockPool, sequences: Listing[Sequence], num_slots: int, writes: Mapping[Sequence, int] | None = None
) -> SlotMap:
    """Return what stands where. Changes nothing; costs a few vector operations over the blocks that are held.

    Args:
        pool: the device pool.
        sequences: all that have a block table.
        num_slots: of the device; those beyond the pool's whole blocks are external.
        writes: tokens that the step under way stores, by sequence.
    """
    size, writes = pool.block_size, writes or {}
    lengths = np.fromiter((len(sequence.block_table) for sequence in sequences), np.int64, len(sequences))
    num_entries = int(lengths.sum())
    tables = itertools.chain.from_iterable(sequence.block_table for sequence in sequences)
    blocks = np.fromiter(tables, np.int64, num_entries)
    bounds = np.array([_bounds(sequence, size, writes.get(sequence, 0)) for sequence in sequences], np.int64)
    bounds = np.repeat(bounds.reshape(-1, 4), lengths, axis=0)
    logical = np.arange(num_entries) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    position = logical[:, None] * size + np.arange(size)
    # stored <= stored + written <= useful <= asked: each bound that a position is below makes it more
    kinds = np.full(position.shape, EXTERNAL, np.uint8)
    for column in range(4):
        kinds += position < bounds[:, [column]]

    held = np.array(pool.ref_counts, np.int32)
    kind = np.zeros((pool.num_blocks, size), np.uint8)
    kind[held > 0] = CACHED  # unless a table names it
    kind[blocks] = FREE
    np.maximum.at(kind, blocks, kinds)
    owner = np.full(pool.num_blocks, NOBODY, np.int32)
    owner[blocks[::-1]] = np.repeat(np.arange(len(sequences), dtype=np.int32), lengths)[::-1]
    tail = num_slots - pool.num_blocks * size
    return SlotMap(
        kind=np.concatenate([kind.ravel(), np.full(tail, EXTERNAL, np.uint8)]),
        owner=np.concatenate([np.repeat(owner, size), np.full(tail, NOBODY, np.int32)]),
        sharers=np.concatenate([np.repeat(held, size), np.zeros(tail, np.int32)]),
    )


def sample(num_slots: int, per_cell: int) -> NDArray[np.int64]:
    """Return the place of one slot of each run of ``per_cell``, at a different offset from run to run.

    So the shares of what is drawn are those of the slots, as far as a sample tells, at whatever size blocks have.
    """
    cells = np.arange(-(-num_slots // per_cell), dtype=np.int64)
    spread = (cells * 0x9E3779B1 >> 7) % per_cell  # multiplicative hashing, Knuth, TAOCP 3, section 6.4
    return np.minimum(cells * per_cell + spread, num_slots - 1)


def _bounds(sequence: Sequence, block_size: int, num_written: int) -> tuple[int, int, int, int]:
    """Return the positions at which a sequence's slots stop being stored, written, useful and asked for."""
    capacity = len(sequence.block_table) * block_size
    asked = capacity if sequence.num_asked is None else sequence.num_asked
    if sequence.retired:
        return 0, 0, 0, asked
    stored = sequence.num_stored
    useful = max(min(asked, sequence.num_final), stored + num_written)
    return stored, stored + num_written, useful, asked
