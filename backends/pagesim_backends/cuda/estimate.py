"""How long decode attention takes for a plan, estimated: enough to tell a dozen good plans from hundreds.

Thread blocks are followed as a fluid: those that run share the memory's bandwidth, none is faster than the
latency of its loads allows, and a new one starts where one ends. Constants are fitted to 10,518 measurements on an
H200, 57 batches in up to 396 forms and splits each (results/gpu-h200): the plan of the lowest estimate takes 2.1 %
longer than the best measured one on average and 13 % at most, the best of the dozen 0.3 % and 4 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pagesim_backends.cuda.kernels import CHUNK, Form
from pagesim_backends.cuda.plan import Heads, Ints

_MERGE_BATCH = 16  # partial results that the merge asks for at once

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timing:
    """What the estimate is made of, in microseconds and bytes; the defaults are those of an H200.

    Attributes:
        bandwidth: bytes a microsecond that the memory delivers.
        launch: of a launch that starts while the one before it ends.
        start: of a thread block, until its first K arrives, and its end.
        step: the least that a warp needs for a chunk of 16 tokens: the latency of its loads.
        sharpness: how abruptly the latency's bound gives way to the bandwidth's.
        rounding: how much of the last round counts in which not all warps of a thread block have a chunk.
        merge: of splits, at least.
        merge_batch: for each batch of partial results that a thread waits for.
        split: of each split, on one multiprocessor.
    """

    bandwidth: float = 4.94e6
    launch: float = 2.85
    start: float = 0.6
    step: float = 1.37
    sharpness: float = 3.5
    rounding: float = 0.66
    merge: float = 0.82
    merge_batch: float = 0.66
    split: float = 0.06


def estimate(
    chunks: Ints, splits: Ints, form: Form, heads: Heads, head_dim: int, num_sms: int, timing: Timing
) -> float:
    """Return the microseconds that a batch takes.

    Args:
        chunks, splits: of each sequence.
        form: of the launch.
        heads: how query heads are spread over work items.
        head_dim: elements of a head.
        num_sms: multiprocessors of the device.
        timing: see ``Timing``.
    """
    warps, slots, copies = form.num_warps, num_sms * form.blocks_per_sm, heads.per_sequence
    chunk_time = CHUNK * head_dim * 4 / timing.bandwidth  # alone on the device, at full bandwidth
    pace = warps / timing.step  # chunks a microsecond that one thread block can ask for
    sizes = item_sizes(chunks, splits)
    rounds = -(-sizes // warps)
    work = sizes + timing.rounding * (rounds * warps - sizes) + timing.start * pace
    ends = _finish(np.repeat(work, copies), slots)
    active = np.arange(len(ends), 0, -1)
    rate = (pace**-timing.sharpness + (chunk_time * active) ** timing.sharpness) ** (-1 / timing.sharpness)
    time = timing.launch + float((np.diff(ends, prepend=0.0) / rate).sum())
    most = int(splits.max())
    if most > 1:
        rows = -(-heads.per_item * head_dim // (4 * 32 * warps))
        time += timing.merge + timing.merge_batch * rows * -(-most // _MERGE_BATCH)
        time += timing.split * int(splits[splits > 1].sum()) * copies / num_sms
    return time


def item_sizes(chunks: Ints, splits: Ints) -> Ints:
    """Return the chunks of each item of one KV head, the largest first."""
    short, num_long = chunks // splits, chunks % splits
    sizes = np.concatenate((np.repeat(short + 1, num_long), np.repeat(short, splits - num_long)))
    return np.sort(sizes)[::-1]


def _finish(work: Floats, slots: int) -> Floats:
    """Return when each slot is done, ascending, in units of work, if all slots progress alike.

    In rounds: of the next items the largest goes to the slot that is done first.
    """
    if len(work) <= slots:
        return work[::-1]
    ends = np.zeros(slots)
    for first in range(0, len(work), slots):
        part = work[first : first + slots]
        ends[: len(part)] += part
        ends.sort()
    return ends
