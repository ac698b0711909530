"""Cuts a batch into work items for decode attention: once a step, on the host, shared by all layers.

A work item is (sequence, KV head, range of tokens), done by one thread block. Memory is the bound, so
what counts is that every multiprocessor reads the same number of bytes and that few splits have to be
merged again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pagesim_backends.cuda.kernels import CHUNK, TILE_HEADS, Form, head_tiles

WORK_ITEM: Final = np.dtype(
    [
        ("sequence", np.int32),
        ("kv_head", np.int16),
        ("first_head", np.uint8),
        ("num_heads", np.uint8),
        ("begin", np.int32),
        ("end", np.int32),
        ("slot", np.int32),
        ("split", np.int16),
        ("num_splits", np.int16),
        ("table", np.int32),
        ("unused", np.int32),
    ]
)
MAX_SPLITS: Final = 256  # of one (sequence, KV head); their weights fit the shared memory of any form

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DecodePlan:
    """Work items and how they are launched.

    Attributes:
        form: warps and thread blocks of a multiprocessor.
        items: dtype ``WORK_ITEM``, in the order in which they start.
        num_slots: rows of partial results.
        item_heads: query heads that an item has at most.
    """

    form: Form
    items: npt.NDArray[np.void]
    num_slots: int
    item_heads: int

    @property
    def num_blocks(self) -> int:
        """Thread blocks of the launch."""
        return len(self.items)

    @property
    def max_splits(self) -> int:
        """The most splits of one (sequence, KV head)."""
        return int(self.items["num_splits"].max(initial=1))


@dataclass(frozen=True)
class Heads:
    """How query heads are spread over work items.

    Attributes:
        num_kv_heads: of the model.
        group: query heads of a KV head.
        per_item: query heads that share an item.
    """

    num_kv_heads: int
    group: int
    per_item: int

    @classmethod
    def of(cls, num_query_heads: int, num_kv_heads: int, head_dim: int) -> Heads:
        """Return the division that the kernel for these sizes is compiled for."""
        group = num_query_heads // num_kv_heads
        return cls(num_kv_heads, group, min(group, TILE_HEADS * head_tiles(group, head_dim)))

    @property
    def parts(self) -> int:
        """Items that a KV head's group is spread over."""
        return -(-self.group // self.per_item)

    @property
    def per_sequence(self) -> int:
        """Items of a sequence that is not split."""
        return self.num_kv_heads * self.parts


def split_evenly(lengths: Ints, tables: Ints, heads: Heads, form: Form, num_splits: Ints) -> DecodePlan:
    """Return a plan with so many splits of each sequence, all of a sequence equally long, the longest first.

    Args:
        lengths: tokens that each sequence attends to, at least 1.
        tables: first entry of each sequence in the block tables.
        heads: see ``Heads``.
        form: of the launch.
        num_splits: of each sequence, at least 1.
    """
    chunks = -(-lengths // CHUNK)
    splits = np.minimum(np.minimum(num_splits, chunks), MAX_SPLITS)
    sequence = np.repeat(np.arange(len(lengths)), splits)
    first = np.cumsum(splits) - splits
    split = np.arange(len(sequence)) - first[sequence]
    begin = split * chunks[sequence] // splits[sequence]
    end = (split + 1) * chunks[sequence] // splits[sequence]
    order = np.argsort(begin - end, kind="stable")
    sequence, split, begin, end = sequence[order], split[order], begin[order], end[order]

    per_sequence = heads.per_sequence
    slots = np.where(splits > 1, splits * per_sequence, 0)  # of each sequence
    first_slot = np.cumsum(slots) - slots
    items = np.zeros((len(sequence), per_sequence), WORK_ITEM)
    pair = np.arange(per_sequence)
    items["sequence"] = sequence[:, None]
    items["begin"] = begin[:, None] * CHUNK
    items["end"] = np.minimum(end * CHUNK, lengths[sequence])[:, None]
    items["split"] = split[:, None]
    items["num_splits"] = splits[sequence, None]
    items["slot"] = first_slot[sequence, None] + pair * splits[sequence, None] + split[:, None]
    items["table"] = tables[sequence, None]
    _set_heads(items, pair, heads)
    return DecodePlan(form, items.reshape(-1), int(slots.sum()), heads.per_item)


def _set_heads(items: npt.NDArray[np.void], pair: Ints, heads: Heads) -> None:
    part = pair % heads.parts
    items["kv_head"] = pair // heads.parts
    items["first_head"] = part * heads.per_item
    items["num_heads"] = np.minimum(heads.group - part * heads.per_item, heads.per_item)
