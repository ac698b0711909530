"""Chooses how decode attention runs a batch: its form and how far each sequence is split.

Of some two hundred plans an estimate keeps a dozen (``estimate.py``); where the caller can try them on the device,
the fastest is taken, else the first. Batches that are alike share the choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.estimate import Timing, estimate
from pagesim_backends.cuda.kernels import CHUNK, Form
from pagesim_backends.cuda.plan import MAX_SPLITS, DecodePlan, Heads, Ints, split_evenly

TARGETS: Final = (0.5, 1, 1.5, 2, 3, 4, 6, 8, 12)
"""Work items to aim at, in multiples of the number of multiprocessors ..."""
MORE: Final = (1.03, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8)
"""... and in multiples of the items without any split: the first of these cut the longest sequences only."""
TAILS: Final = ((0.1, 4), (0.2, 4), (0.35, 4), (0.1, 8))
"""What ``cut_tail`` is tried with: as equal items end together only by chance, the last of them are cut finer."""

NUM_TRIED: Final = 12
CLOSE: Final = 1.03
MOST_OF_A_FORM: Final = 2  # of those that are tried
_BASES: Final = 3  # divisions of which tails are considered
_SIMILAR: Final = math.log(1.1)  # batches as near as this share a choice

Trial = Callable[[DecodePlan], float]
"""Says how long a plan takes, in any unit."""


@dataclass(frozen=True)
class Choice:
    """How a batch is cut.

    Attributes:
        form: of the launch.
        num_items: most work items before the tail is cut; 0: no sequence is split.
        share, factor: of ``cut_tail``; a share of 0 cuts no tail.
    """

    form: Form
    num_items: int
    share: float = 0.0
    factor: int = 1


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
        self._choices: dict[tuple[int, int, int], Choice] = {}

    def plan(self, lengths: Ints, tables: Ints, trial: Trial | None = None) -> DecodePlan:
        """Return the plan for sequences that attend to ``lengths`` tokens, at least 1 each.

        Args:
            lengths: int64.
            tables: first entry of each sequence in the block tables; contiguous: its first slot.
            trial: tries the best estimated plans where no batch like this one came before.
        """
        chunks = -(-lengths // CHUNK)
        key = (len(chunks), int(math.log(chunks.sum()) / _SIMILAR), int(math.log(chunks.max()) / _SIMILAR))
        choice = self._choices.get(key)
        if choice is None:
            found = self.candidates(chunks)
            choice = (
                found[0] if trial is None else self._race(found, lambda one: self._cut(one, lengths, tables), trial)
            )
            self._choices[key] = choice
        return self._cut(choice, lengths, tables)

    @staticmethod
    def _race(found: list[Choice], cut: Callable[[Choice], DecodePlan], trial: Trial) -> Choice:
        """Return the fastest; those that are close to it are tried twice more."""
        times = {choice: trial(cut(choice)) for choice in found}
        close = [choice for choice in found if times[choice] <= CLOSE * min(times.values())]
        for choice in close if len(close) > 1 else ():
            times[choice] += trial(cut(choice)) + trial(cut(choice))
        return min(close, key=times.__getitem__)

    def candidates(self, chunks: Ints) -> list[Choice]:
        """Return the choices of the lowest estimates for sequences of so many chunks, the best first."""
        estimates: dict[Choice, float] = {}
        seen: set[bytes] = set()

        def consider(num_items: int, share: float = 0.0, factor: int = 1) -> float:
            splits = self.splits(chunks, num_items, share, factor)
            if splits.tobytes() in seen:
                return math.inf
            seen.add(splits.tobytes())
            for form in self.forms:
                time = estimate(chunks, splits, form, self.heads, self.head_dim, self.num_sms, self.timing)
                estimates[Choice(form, num_items, share, factor)] = time
            return min(estimates[Choice(form, num_items, share, factor)] for form in self.forms)

        best = sorted((consider(num_items), num_items) for num_items in self._targets(len(chunks)))
        for _, num_items in best[:_BASES]:
            for share, factor in TAILS:
                consider(num_items, share, factor)
        taken: list[Choice] = []
        for choice in sorted(estimates, key=estimates.__getitem__):
            if sum(choice.form == other.form for other in taken) < MOST_OF_A_FORM:
                taken.append(choice)
        return taken[:NUM_TRIED]

    def splits(self, chunks: Ints, num_items: int, share: float = 0.0, factor: int = 1) -> Ints:
        """Return the splits of each sequence: as long as they can be while there are at most ``num_items``.

        Without room for more items than sequences and heads, one each. ``share`` and ``factor``: of ``cut_tail``.
        """
        per_sequence = self.heads.per_sequence
        splits: Ints = np.ones(len(chunks), np.int64)
        if num_items >= len(chunks) * per_sequence:
            shortest, longest = 1, int(chunks.max())
            while shortest < longest:
                middle = (shortest + longest) // 2
                if int((-(-chunks // middle)).sum()) * per_sequence <= num_items:
                    longest = middle
                else:
                    shortest = middle + 1
            splits = np.minimum(-(-chunks // shortest), MAX_SPLITS)
        return cut_tail(chunks, splits, share, factor) if share else splits

    def _cut(self, choice: Choice, lengths: Ints, tables: Ints) -> DecodePlan:
        splits = self.splits(-(-lengths // CHUNK), choice.num_items, choice.share, choice.factor)
        return split_evenly(lengths, tables, self.heads, choice.form, splits)

    def _targets(self, num_sequences: int) -> list[int]:
        unsplit = num_sequences * self.heads.per_sequence
        targets = {int(target * self.num_sms) for target in TARGETS if target * self.num_sms >= unsplit}
        return sorted({0} | targets | {int(more * unsplit) for more in MORE if more * unsplit > self.num_sms})


def cut_tail(chunks: Ints, splits: Ints, share: float, factor: int) -> Ints:
    """Return splits in which the shortest items are cut finer, so that those that run last end together.

    Args:
        chunks, splits: of each sequence.
        share: of all chunks, how many lie in the sequences that are cut; at least one sequence is.
        factor: how much finer.
    """
    order = np.argsort(chunks / splits, kind="stable")
    num_cut = int(np.searchsorted(np.cumsum(chunks[order]), share * chunks.sum(), side="right"))
    cut = order[: max(num_cut, 1)]
    finer = splits.copy()
    finer[cut] = np.minimum(np.minimum(splits[cut] * factor, chunks[cut]), MAX_SPLITS)
    return finer
