"""One adjacent run for each sequence, reserved when it is admitted."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from typing import Literal, cast

from pagesim.allocators.placement import PLACEMENTS, FirstFit, Placement
from pagesim.blocks import BlockOps, BlockPool, Copy, SwapIn, SwapOut
from pagesim.errors import ConfigError
from pagesim.sequence import Sequence

Reserve = Literal["max", "pow2", "oracle"]


class Contiguous:
    """One adjacent run a sequence: reserves the maximum, a power of two, or what an oracle says.

    The reservations are those of the Orca variants in the PagedAttention paper (SOSP 2023, section 6.1):
    ``max`` takes ``max_model_len`` slots, ``pow2`` the prompt and the next power of two of the output
    estimate, ``oracle`` exactly what the sequence will store.

    Args:
        pool: where the runs are taken.
        max_model_len: the longest that a sequence may become, in tokens.
        reserve: how much is asked for.
        placement: where it goes: ``buddy``, ``first_fit`` or ``best_fit``.
    """

    bulk = True
    stable_refusal = True
    admits_smaller = True
    contiguous = True
    default_block_size = 1
    default_watermark = 0.0

    def __init__(self, pool: BlockPool, max_model_len: int, reserve: Reserve = "max", placement: str = "buddy") -> None:
        if reserve not in ("max", "pow2", "oracle"):
            raise ConfigError(f"reserve: {reserve!r} is unknown; allowed: max, pow2, oracle")
        if placement not in PLACEMENTS:
            raise ConfigError(f"placement: {placement!r} is unknown; allowed: {', '.join(PLACEMENTS)}")
        self.pool = pool
        self.max_model_len = max_model_len
        self.reserve = reserve
        self.oracle = reserve == "oracle"
        self.placement: Placement = PLACEMENTS[placement](pool.num_blocks)
        self.host_placement: Placement | None = FirstFit(pool.host.num_blocks) if pool.host else None

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Reserve a run at admission; afterwards grow only a reservation that has been outrun."""
        needed = sequence.num_stored + num_tokens
        if not sequence.block_table:
            asked = self._reservation(sequence, needed)
            run = self._take(asked)
            if run is None:
                return None
            self._hand_out(sequence, run, asked)
            return BlockOps()
        if needed <= (sequence.num_asked or 0):
            return BlockOps()
        return self._outgrow(sequence, self._reservation(sequence, needed))

    def free(self, sequence: Sequence) -> None:
        """Give the run back."""
        run = self._run(sequence)
        if run:
            self.pool.give(run)
            self.placement.release(run)
        sequence.block_table = []
        sequence.num_asked = None

    def fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Reserve a run for the child and copy the parent's stored part into it."""
        asked = self._reservation(child, parent.num_stored)
        run = self._take(asked)
        if run is None:
            return None
        self._hand_out(child, run, asked)
        stored = self.pool.blocks_for(parent.num_stored)
        return BlockOps([Copy(parent.block_table[0], run.start, stored)])

    def swap_out(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Move the stored part of each run to the host, each in one transfer."""
        host, ops = self.pool.host, BlockOps()
        if host is None or self.host_placement is None:
            return None
        homes: list[range] = []
        placed = [sequence for sequence in sequences if sequence.block_table]
        for sequence in placed:
            home = self.host_placement.place(max(self.pool.blocks_for(sequence.num_stored), 1))
            if home is None:
                for earlier in homes:
                    self.host_placement.release(earlier)
                return None
            homes.append(home)
        for sequence, home in zip(placed, homes, strict=True):
            host.take_at(home)
            ops.append(SwapOut(sequence.block_table[0], home.start, len(home)))
            self.free(sequence)
            sequence.host_table = cast("list[int]", home)
        return ops

    def swap_in(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Reserve a run anew for each sequence and bring its stored part back."""
        host, ops = self.pool.host, BlockOps()
        if host is None or self.host_placement is None:
            return None
        swapped = [sequence for sequence in sequences if sequence.host_table]
        for index, sequence in enumerate(swapped):
            asked = self._reservation(sequence, sequence.num_stored)
            run = self._take(asked)
            if run is None:
                for earlier in swapped[:index]:
                    self.free(earlier)
                return None
            self._hand_out(sequence, run, asked)
            ops.append(SwapIn(sequence.host_table[0], run.start, len(sequence.host_table)))
        for sequence in swapped:
            home = cast(range, sequence.host_table)
            host.give(home)
            self.host_placement.release(home)
            sequence.host_table = []
        return ops

    def largest_free_run(self) -> int:
        """Return the longest run that could be taken, in blocks."""
        return self.placement.largest_free_run()

    def _reservation(self, sequence: Sequence, needed: int) -> int:
        """Return how many slots to ask for, at least ``needed``."""
        if self.reserve == "max":
            return max(self.max_model_len, needed)
        prompt = sequence.request.prompt_tokens
        if self.reserve == "oracle":
            return max(prompt + sequence.future.output_tokens - 1, needed)
        output = 1 << (max(sequence.estimate, 1) - 1).bit_length()
        while prompt + output < needed:
            output *= 2
        return max(min(prompt + output, self.max_model_len), needed)

    def _outgrow(self, sequence: Sequence, asked: int) -> BlockOps | None:
        """Grow in place if the neighbour is free, otherwise move, with both runs held meanwhile."""
        old, num_blocks = self._run(sequence), self.pool.blocks_for(asked)
        if num_blocks - len(old) <= self.pool.num_free:
            run = self.placement.extend(old, num_blocks)
            if run is not None:
                self.pool.take_at(range(old.stop, run.stop))
                self._hand_out(sequence, run, asked)
                return BlockOps()
        run = self._take(asked)
        if run is None:
            return None
        ops = BlockOps([Copy(old.start, run.start, self.pool.blocks_for(sequence.num_stored))])
        self.pool.give(old)
        self.placement.release(old)
        self._hand_out(sequence, run, asked)
        return ops

    def _take(self, num_slots: int) -> range | None:
        num_blocks = self.pool.blocks_for(num_slots)
        if num_blocks > self.pool.num_free:
            return None
        run = self.placement.place(num_blocks)
        if run is None:
            return None
        if len(run) > self.pool.num_free:  # the chunk is larger than what was asked, and the floor is in the way
            self.placement.release(run)
            return None
        self.pool.take_at(run)
        return run

    @staticmethod
    def _hand_out(sequence: Sequence, run: range, asked: int) -> None:
        # A run is a block table too. A list of its 2,048 entries for every request would be slow.
        sequence.block_table = cast("list[int]", run)
        sequence.num_asked = asked

    @staticmethod
    def _run(sequence: Sequence) -> range:
        return cast(range, sequence.block_table) if sequence.block_table else range(0)
