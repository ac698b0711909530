"""From a Step to the arrays that the kernels read: tokens, slots, block tables and work items."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Listing
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pagesim.backend import Step
from pagesim.errors import BackendError
from pagesim.sequence import Branch, Sequence
from pagesim_backends import tokens
from pagesim_backends.cache_shape import describe, slot_mapping
from pagesim_backends.cuda.kernels import PREFILL_ROWS

PREFILL_ITEM: Final = np.dtype(
    [
        ("first_row", np.int32),
        ("num_rows", np.int32),
        ("first_token", np.int32),
        ("stored", np.int32),
        ("table", np.int32),
        ("unused", np.int32, 3),
    ]
)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """The tokens of a step, those of prompts first.

    Attributes:
        keys: of each token, see ``tokens.py``.
        slots: where its K and V go.
        block_tables: the tables of all sequences one after the other; empty for a contiguous policy.
        prefill_items: dtype ``PREFILL_ITEM``.
        num_prefill_tokens: the first rows of queries; one row for each decode follows.
        lengths: tokens that each decode attends to.
        tables: first entry of each decode's table; for a contiguous policy its first slot.
    """

    keys: npt.NDArray[np.uint32]
    slots: npt.NDArray[np.int32]
    block_tables: npt.NDArray[np.int32]
    prefill_items: npt.NDArray[np.void]
    num_prefill_tokens: int
    lengths: Ints
    tables: Ints

    @property
    def num_tokens(self) -> int:
        """Rows of queries and outputs."""
        return len(self.keys)


class Batcher:
    """Makes batches, and remembers the streams of sequences that decode.

    Args:
        seed: of the tokens.
        block_size: slots of a block.
        contiguous: whether a sequence's table is one run of blocks.
        group: query heads of a KV head.
    """

    def __init__(self, seed: int, block_size: int, *, contiguous: bool, group: int) -> None:
        self.seed = seed
        self.block_size = block_size
        self.contiguous = contiguous
        self.group = group
        self._streams: dict[tuple[int, int], tuple[Branch | None, int, int]] = {}

    def batch(self, step: Step) -> Batch:
        """Return the arrays of a step. Raises BackendError if a table does not cover its tokens (INV-2)."""
        entries, keys, slots = array("i"), [], []
        items: list[tuple[int, int, int, int, int, tuple[int, int, int]]] = []
        num_prefill_tokens = 0
        for sequence, num_tokens, _ in step.prefills:
            start = sequence.num_stored
            stop = start + num_tokens
            table = self._enter(sequence, stop, entries)
            keys.append(tokens.token_keys(tokens.runs_of(sequence, self.seed, start, stop)))
            slots.append(slot_mapping(sequence.block_table, self.block_size, start, stop).astype(np.int32))
            rows = num_tokens * self.group
            blocks = range(0, rows, PREFILL_ROWS)[::-1]  # the last rows attend to most: they start first
            items += [(row, rows, num_prefill_tokens, start, table, (0, 0, 0)) for row in blocks]
            num_prefill_tokens += num_tokens
        lengths, tables = self._decodes(step, entries, keys, slots)
        return Batch(
            keys=np.concatenate(keys) if keys else np.zeros(0, np.uint32),
            slots=np.concatenate(slots) if slots else np.zeros(0, np.int32),
            block_tables=np.frombuffer(entries, np.int32) if entries else np.zeros(1, np.int32),
            prefill_items=np.array(items, PREFILL_ITEM),
            num_prefill_tokens=num_prefill_tokens,
            lengths=lengths,
            tables=tables,
        )

    def _decodes(
        self,
        step: Step,
        entries: array[int],
        keys: list[npt.NDArray[np.uint32]],
        slots: list[npt.NDArray[np.int32]],
    ) -> tuple[Ints, Ints]:
        sequences = list(step.decodes)
        if not sequences:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        size = self.block_size
        positions = np.array([sequence.num_stored for sequence in sequences], np.int64)
        streams, last, tables = [], [], []
        for sequence, position in zip(sequences, positions.tolist(), strict=True):
            tables.append(self._enter(sequence, position + 1, entries))
            last.append(sequence.block_table[position // size])
            streams.append(self._stream(sequence, position))
        keys.append(tokens.keys_at(np.array(streams, np.uint32), positions))
        slots.append((np.array(last, np.int64) * size + positions % size).astype(np.int32))
        return positions + 1, np.array(tables, np.int64)

    def _enter(self, sequence: Sequence, num_tokens: int, entries: array[int]) -> int:
        """Append the sequence's table and return where it begins; for a contiguous policy its first slot."""
        table: Listing[int] = sequence.block_table
        if num_tokens > len(table) * self.block_size:
            raise BackendError(
                f"INV-2: {describe(sequence)} stores {num_tokens} tokens in {len(table)} blocks of {self.block_size}"
            )
        if self.contiguous:
            return table[0] * self.block_size
        first = len(entries)
        entries.extend(table)
        return first

    def _stream(self, sequence: Sequence, position: int) -> int:
        """Return the stream of a position past the prompt; asked for anew after a fork only."""
        name = (sequence.request.id, sequence.index)
        branch, first, stream = self._streams.get(name, (None, -1, 0))
        if first < 0 or branch is not sequence.branch or position < first:
            ((stream, _, _),) = tokens.runs_of(sequence, self.seed, position, position + 1)
            if len(self._streams) > 100_000:
                self._streams.clear()
            self._streams[name] = (sequence.branch, position, stream)
        return stream
