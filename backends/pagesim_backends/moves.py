"""Cuts an ordered plan of block moves into batches that may each be performed at once.

The meaning of ``BlockOps`` is execution in order. Neighbouring moves of one kind go into one batch as
long as none of them touches what another of the batch writes; a batch is performed when the one before
it is done.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pagesim.blocks import BlockOps, Copy, Op, SwapOut

Kind = Literal["copy", "swap_out", "swap_in"]


class Batch(NamedTuple):
    """Moves of one kind that do not conflict, unless ``overlaps``.

    Attributes:
        kind: what is moved: device to device, device to host, host to device.
        blocks: int32, shape (moves, 2): source and target.
        overlaps: a single run of blocks whose targets are sources too, to be moved as if all were read first.
    """

    kind: Kind
    blocks: npt.NDArray[np.int32]
    overlaps: bool = False


def batches(ops: BlockOps) -> list[Batch]:
    """Return the plan as batches, in order."""
    found: list[Batch] = []
    kind: Kind | None = None
    pairs: list[tuple[int, int]] = []
    read: set[int] = set()
    written: set[int] = set()

    def close() -> None:
        if kind is not None and pairs:
            found.append(Batch(kind, np.array(pairs, np.int32)))
        pairs.clear()
        read.clear()
        written.clear()

    for op in ops:
        this, moves = _moves(op)
        sources = {source for source, _ in moves}
        targets = {target for _, target in moves}
        same_space = this == "copy"
        if same_space and not sources.isdisjoint(targets):
            close()
            kind = None
            if op[0] != op[1]:
                found.append(Batch(this, np.array(moves, np.int32), overlaps=True))
            continue
        conflict = not targets.isdisjoint(written) or (
            same_space and not (targets.isdisjoint(read) and sources.isdisjoint(written))
        )
        if this != kind or conflict:
            close()
            kind = this
        pairs += moves
        read |= sources
        written |= targets
    close()
    return found


def _moves(op: Op) -> tuple[Kind, list[tuple[int, int]]]:
    if isinstance(op, Copy):
        kind: Kind = "copy"
        source, target = op.source, op.destination
    elif isinstance(op, SwapOut):
        kind, source, target = "swap_out", op.device, op.host
    else:
        kind, source, target = "swap_in", op.host, op.device
    return kind, [(source + index, target + index) for index in range(op.num_blocks)]
