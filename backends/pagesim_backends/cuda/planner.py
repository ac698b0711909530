"""Chooses how decode attention runs a batch: its form and how far each sequence is split.

The choice is by an estimate of the time, fitted to 5,724 measurements on an H200: 171 uniform and log-normal
batches of 1 to 256 sequences, 1 to 40 KV heads, 1 MiB to 1.5 GiB of KV (results/gpu-h200). For the 153 whose
chosen form and splits were among the measured ones it took 0.9 % longer than the best on average, 10 % at most.
The estimate follows thread blocks as fluid: those that run share the memory's bandwidth, none is faster than
the latency of its loads allows, and a new one starts when one ends.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.kernels import CHUNK, Form
from pagesim_backends.cuda.plan import MAX_SPLITS, DecodePlan, Heads, Ints, split_evenly

TARGETS: Final = (0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12)
"""Work items to aim at, in multiples of the number of multiprocessors ..."""
MORE: Final = (1.03, 1.1, 1.25, 1.5, 2)
"""... and in multiples of the items without any split: these cut the longest sequences only."""

_MERGE_BATCH: Final = 16  # partial results that the merge asks for at once
_SIMULATED_WAVES: Final = 8  # more of them even out
_SIMILAR: Final = math.log(1.05)  # batches as near as this share a choice

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timing:
    """What the estimate is made of, in microseconds and bytes; the defaults are those of an H200.

    Attributes:
        bandwidth: bytes a microsecond that the memory delivers.
        launch: of a kernel that does nothing.
        start: of a thread block, until its first K arrives, and its end.
        step: the least that a warp needs for a chunk of 16 tokens: the latency of its loads.
        merge: of splits, at least.
        merge_batch: for each batch of partial results that a thread waits for.
        narrow_splits: a factor on splits that are merged by two warps.
    """

    bandwidth: float = 4.75e6
    launch: float = 4.0
    start: float = 2.0
    step: float = 1.5
    merge: float = 1.0
    merge_batch: float = 0.9
    narrow_splits: float = 1.07


class Planner:
    """Plans decode attention for one model on one kind of GPU.

    Args:
        heads: how query heads are spread over work items.
        head_dim: elements of a head.
        num_sms: multiprocessors of the device.
        max_shared_bytes: shared memory that a thread block may have.
        timing: see ``Timing``.
    """

    def __init__(
        self,
        heads: Heads,
        head_dim: int,
        num_sms: int,
        *,
        max_shared_bytes: int = 227 * 1024,
        timing: Timing | None = None,
    ) -> None:
        self.heads = heads
        self.head_dim = head_dim
        self.num_sms = num_sms
        self.timing = timing or Timing()
        self.forms = tuple(
            form
            for form in kernels.forms(heads.group, head_dim)
            if kernels.decode_shared_bytes(form.num_warps, heads.per_item, head_dim, MAX_SPLITS) <= max_shared_bytes
        )
        self._choices: dict[tuple[int, int, int], tuple[Form, int]] = {}

    def plan(self, lengths: Ints, tables: Ints) -> DecodePlan:
        """Return the plan for sequences that attend to ``lengths`` tokens, at least 1 each.

        Args:
            lengths: int64.
            tables: first entry of each sequence in the block tables; contiguous: its first slot.
        """
        chunks = -(-lengths // CHUNK)
        form, num_items = self.choose(chunks)
        return split_evenly(lengths, tables, self.heads, form, self.splits(chunks, num_items))

    def choose(self, chunks: Ints) -> tuple[Form, int]:
        """Return form and most work items for sequences of so many chunks; 0 items: no sequence is split.

        Batches that differ by a few percent share a choice, so that a step seldom pays for one.
        """
        key = (len(chunks), int(math.log(chunks.sum()) / _SIMILAR), int(math.log(chunks.max()) / _SIMILAR))
        if key not in self._choices:
            self._choices[key] = self._choose(chunks)
        return self._choices[key]

    def splits(self, chunks: Ints, num_items: int) -> Ints:
        """Return the splits of each sequence: as long as they can be while there are at most ``num_items``.

        Without room for more items than sequences and heads, one each.
        """
        per_sequence = self.heads.per_sequence
        if num_items < len(chunks) * per_sequence:
            return np.ones(len(chunks), np.int64)
        shortest, longest = 1, int(chunks.max())
        while shortest < longest:
            middle = (shortest + longest) // 2
            if int((-(-chunks // middle)).sum()) * per_sequence <= num_items:
                longest = middle
            else:
                shortest = middle + 1
        splits: Ints = np.minimum(-(-chunks // shortest), MAX_SPLITS)
        return splits

    def _choose(self, chunks: Ints) -> tuple[Form, int]:
        best = (math.inf, self.forms[0], 0)
        seen: set[bytes] = set()
        unsplit = len(chunks) * self.heads.per_sequence
        targets = {int(target * self.num_sms) for target in TARGETS}
        if unsplit > self.num_sms:
            targets |= {int(more * unsplit) for more in MORE}
        for target in (0, *sorted(targets)):
            if 0 < target < unsplit:
                continue
            splits = self.splits(chunks, target)
            if splits.tobytes() in seen:
                continue
            seen.add(splits.tobytes())
            best = min(best, *((self.estimate(chunks, splits, form), form, target) for form in self.forms), key=_first)
        return best[1], best[2]

    def estimate(self, chunks: Ints, splits: Ints, form: Form) -> float:
        """Return the microseconds that a batch takes.

        Args:
            chunks: of each sequence.
            splits: of each sequence.
            form: of the launch.
        """
        timing, copies = self.timing, self.heads.per_sequence
        chunk_time = CHUNK * self.head_dim * 4 / timing.bandwidth  # alone on the device, at full bandwidth
        pace = form.num_warps / timing.step  # chunks a microsecond that one thread block can ask for
        short, num_long = chunks // splits, chunks % splits
        sizes = np.concatenate((np.repeat(short + 1, num_long), np.repeat(short, splits - num_long)))
        sizes = np.sort(sizes)[::-1]
        work = np.repeat(sizes, copies) + timing.start * pace
        slots = self.num_sms * form.blocks_per_sm
        if len(work) > _SIMULATED_WAVES * slots:
            rate = min(pace, 1 / (chunk_time * slots))
            time = max(float(work.sum()) / slots, float(work[0])) / rate
        else:
            time = _drain(_finish(work, slots), pace, chunk_time)
        steps = -(-int(sizes[0]) // form.num_warps)
        time = max(time, steps * timing.step + timing.start, float(chunks.sum()) * copies * chunk_time)
        most = int(splits.max())
        if most > 1:
            rows = -(-self.heads.per_item * self.head_dim // (4 * 32 * form.num_warps))
            time += timing.merge + timing.merge_batch * rows * -(-most // _MERGE_BATCH)
            if form.num_warps == 2:
                time *= timing.narrow_splits
        return timing.launch + time


def cut_tail(chunks: Ints, splits: Ints, share: float, factor: int) -> Ints:
    """Return splits in which the shortest items are cut finer, so that those that run last end together.

    Args:
        chunks: of each sequence.
        splits: of each sequence.
        share: of all chunks, how many lie in the sequences that are cut; at least one sequence is.
        factor: how much finer.
    """
    order = np.argsort(chunks / splits, kind="stable")
    num_cut = int(np.searchsorted(np.cumsum(chunks[order]), share * chunks.sum(), side="right"))
    cut = order[: max(num_cut, 1)]
    finer = splits.copy()
    finer[cut] = np.minimum(np.minimum(splits[cut] * factor, chunks[cut]), MAX_SPLITS)
    return finer


def _first(choice: tuple[float, Form, int]) -> float:
    return choice[0]


def _finish(work: Floats, slots: int) -> Floats:
    """Return when each slot is done, ascending, in units of work, if all slots progress alike."""
    if len(work) <= slots:
        return work[::-1]
    ends = work[:slots].tolist()
    heapq.heapify(ends)
    for amount in work[slots:].tolist():
        heapq.heapreplace(ends, ends[0] + amount)
    return np.sort(np.array(ends))


def _drain(ends: Floats, pace: float, chunk_time: float) -> float:
    """Return the time until the last slot is done, with the bandwidth shared by those that still run."""
    active = np.arange(len(ends), 0, -1)
    rate = np.minimum(pace, 1 / (chunk_time * active))
    return float((np.diff(ends, prepend=0.0) / rate).sum())
