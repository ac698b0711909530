"""The contract of an allocator, and the capabilities that one may have on top of it.

A policy needs no base class and no registration: ``allocate`` and ``free`` are enough. Everything
else is a small protocol of its own; the scheduler looks once, at the start, which ones are there.

Attributes that a policy's class may set (all optional):

- ``oracle = True``: it reads ``sequence.future``; tables mark such rows.
- ``contiguous = True``: its tables are runs of adjacent blocks, so the kernel needs no table.
- ``bulk = True``: ``allocate`` does nothing while the table has room and its last block is not
  shared, so the scheduler need not call it for each token.
- ``grows_by_block = True``, beside ``bulk``: where the table is full, ``allocate(sequence, 1)`` takes one block
  of the pool, any one, and refuses only where none is free. So the scheduler takes them itself, for all
  sequences at once, and calls for none of them. A subclass with an ``allocate`` of its own says it anew.
- ``counts_blocks = True``, beside both: only how many blocks a sequence holds matters to it, never which. For
  ``num_tokens`` more it takes just the blocks that the table lacks, of a fresh sequence too, and refuses only where
  fewer are free; ``free`` gives all back. A fork copies the parent's stored blocks, or, with ``shares_forks = True``,
  shares them until they are written (as ``CopyOnWrite`` does). Requests that share no prefix are then served without
  a call. A subclass with one of these methods of its own says it anew.
- ``stable_refusal = True``: once it has refused a sequence, it refuses it again until a block
  becomes free or is moved, so the scheduler need not ask in every step.
- ``admits_smaller = True``: what it admits over an empty pool, it admits there with a shorter prompt, estimate and
  output too, so that not every length has to be tried to tell "not now" from "never".
  With ``bulk`` and ``stable_refusal`` a policy may be asked where a request comes, goes or has filled its table, and
  nowhere else: in a call it may look at the sequence that it is called for and at the pool, not at other sequences,
  and it must not mind being asked again for what it has just refused.
- ``default_block_size`` and ``default_watermark``: what a row of an experiment gets if it names none.
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from typing import Protocol, runtime_checkable

from pagesim.blocks import BlockOps, BlockPool
from pagesim.promises import says
from pagesim.sequence import Sequence


class Allocator(Protocol):
    """Decides which blocks hold a sequence's KV cache. Moves no memory."""

    pool: BlockPool

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Make room for ``num_tokens`` more. None: no room, and nothing has changed."""
        ...

    def free(self, sequence: Sequence) -> None:
        """Give every block of ``sequence`` back; its block table is empty afterwards."""
        ...


@runtime_checkable
class Forks(Protocol):
    """Can make one sequence continue from another's stored tokens."""

    def fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Give ``child`` the stored tokens of ``parent``. None: no room, nothing has changed."""
        ...


@runtime_checkable
class Swaps(Protocol):
    """Can move a request's sequences to host blocks and back."""

    def swap_out(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Move their stored blocks to the host; their block tables are empty afterwards.

        None: no room on the host, and nothing has changed.
        """
        ...

    def swap_in(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Bring them back; their host tables are empty afterwards. None: no room, nothing changed."""
        ...


@runtime_checkable
class Prefixes(Protocol):
    """Can start a sequence from tokens that another request has stored."""

    def match(self, sequence: Sequence) -> int:
        """Return how many of its first tokens are there already. Changes nothing."""
        ...


def grows_by_block(allocator: Allocator) -> bool:
    """Return whether ``allocator`` says ``grows_by_block`` and ``bulk`` of its ``allocate``."""
    return bool(getattr(allocator, "bulk", False)) and says(allocator, "grows_by_block", "allocate")


def counts_blocks(allocator: Allocator) -> bool:
    """Return whether ``allocator`` says ``counts_blocks`` of its methods, and what that is said beside."""
    said = says(allocator, "counts_blocks", "allocate", "free", "fork") and grows_by_block(allocator)
    return said and bool(getattr(allocator, "stable_refusal", False))
