"""The sizes of a KV cache that a backend really holds, and the slots that a block table names.

slot = block_table[position // block_size] * block_size + position % block_size
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagesim.errors import BackendError
from pagesim.sequence import Sequence
from pagesim_backends.errors import UnavailableError


@dataclass(frozen=True)
class CacheShape:
    """How many blocks there are and what a slot of them holds.

    Attributes:
        num_blocks: device blocks.
        block_size: slots (tokens) of a block.
        num_host_blocks: blocks that swaps can move to the host.
        num_layers: each slot holds K and V of every layer.
        num_query_heads: heads that attend; a multiple of ``num_kv_heads``.
        num_kv_heads: heads that are stored.
        head_dim: elements of a head.

    Raises UnavailableError on sizes that no cache has.
    """

    num_blocks: int
    block_size: int
    num_host_blocks: int
    num_layers: int
    num_query_heads: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        for name, least in (
            ("num_blocks", 1),
            ("block_size", 1),
            ("num_host_blocks", 0),
            ("num_layers", 1),
            ("num_query_heads", 1),
            ("num_kv_heads", 1),
            ("head_dim", 4),
        ):
            if getattr(self, name) < least:
                raise UnavailableError(f"{name} is {getattr(self, name)}; a KV cache needs at least {least}")
        if self.num_query_heads % self.num_kv_heads:
            raise UnavailableError(
                f"{self.num_query_heads} query heads are no multiple of {self.num_kv_heads} KV heads; "
                "each KV head serves a whole group of query heads"
            )
        if self.head_dim % 4:
            raise UnavailableError(f"head_dim is {self.head_dim}; it must be a multiple of 4")

    @property
    def group(self) -> int:
        """Query heads that read one KV head."""
        return self.num_query_heads // self.num_kv_heads

    @property
    def num_slots(self) -> int:
        """Tokens that the device pool holds."""
        return self.num_blocks * self.block_size

    @property
    def elements_per_block(self) -> int:
        """Numbers in one block: K and V, all layers."""
        return 2 * self.num_layers * self.block_size * self.num_kv_heads * self.head_dim


def slot_mapping(block_table: Listing[int], block_size: int, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Return the slots of positions ``start`` to ``stop - 1``; int64, shape (stop - start).

    Raises BackendError if the table does not cover them (INV-2).
    """
    if stop > len(block_table) * block_size:
        raise BackendError(
            f"INV-2: position {stop - 1} lies outside a table of {len(block_table)} blocks of {block_size} slots"
        )
    positions = np.arange(start, stop, dtype=np.int64)
    first_block = start // block_size
    if isinstance(block_table, range):
        blocks = np.arange(block_table.start, block_table.stop, block_table.step, dtype=np.int64)[first_block:]
    else:
        blocks = np.asarray(block_table[first_block : -(-stop // block_size)], dtype=np.int64)
    return blocks[positions // block_size - first_block] * block_size + positions % block_size


def describe(sequence: Sequence) -> str:
    """Return how messages name a sequence."""
    return f"request {sequence.request.id}, sequence {sequence.index}"
