"""The allocator with the account kept: every change of a block table goes through here."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Listing

from pagesim.account import Account, Held
from pagesim.allocators.base import Allocator, Forks, Prefixes, Swaps, grows_by_block
from pagesim.blocks import BlockOps
from pagesim.errors import InvariantError
from pagesim.sequence import Branch, Request, Sequence


class Memory:
    """What the scheduler does with an allocator.

    All calls answer None where there is no room, and have changed nothing then.

    Args:
        allocator: decides which blocks.
        account: gets the difference that each call makes.
    """

    def __init__(self, allocator: Allocator, account: Account) -> None:
        self.allocator = allocator
        self.account = account
        self.pool = allocator.pool
        self.is_bulk = bool(getattr(allocator, "bulk", False))
        self.has_stable_refusal = bool(getattr(allocator, "stable_refusal", False))
        self.can_fork = isinstance(allocator, Forks)
        self._forks = allocator if isinstance(allocator, Forks) else None
        self._swaps = allocator if isinstance(allocator, Swaps) else None
        self._prefixes = allocator if isinstance(allocator, Prefixes) else None
        self.grows_by_block = grows_by_block(allocator)

    @property
    def can_swap(self) -> bool:
        """Whether the allocator can swap, and has where to."""
        return self._swaps is not None and self.pool.host is not None

    def num_retired(self) -> int:
        """Return how many requests hold memory though they have ended."""
        return 0

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Make room for ``num_tokens`` more tokens of a running sequence."""
        request, start = sequence.request, sequence.num_stored // self.pool.block_size
        before = self.account.held(request, start)
        ops = self.ask(sequence, num_tokens)
        if ops is not None:
            self.account.change(before, self.account.held(request, start))
        return ops

    def ask(self, sequence: Sequence, num_tokens: int, *, above: int = 0) -> BlockOps | None:
        """Allocate, leaving ``above`` blocks free; the account is the caller's."""
        self.pool.floor = above
        try:
            ops = self.allocator.allocate(sequence, num_tokens)
        finally:
            self.pool.floor = 0
        if ops is not None:
            self._check_coverage(sequence, num_tokens)
        return ops

    def promise(self, num_blocks: int, num_never: int) -> bool:
        """Hold one more block for each of ``num_blocks`` sequences whose tables are full; False: not room for all.

        Args:
            num_never: slots in them that will never be written.
        """
        if not self.pool.promise(num_blocks):
            return False
        self.account.extended(num_blocks, num_never)
        return True

    def match(self, sequences: list[Sequence]) -> list[int]:
        """Return how many tokens of each sequence are there already, in blocks that it can share."""
        if self._prefixes is None or sequences[0].request.prefix_group is None:
            return [0] * len(sequences)
        return [self._prefixes.match(sequence) for sequence in sequences]

    def admit(self, request: Request, sequences: list[Sequence], *, above: int) -> BlockOps | None:
        """Allocate the whole prompt of each of ``sequences``, leaving ``above`` blocks free."""
        return self._above(above, request, lambda: self._prompts(sequences))

    def fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Let ``child`` continue from what ``parent`` has stored."""
        if self._forks is None:
            raise InvariantError("a sequence is forked though the allocator cannot fork")
        before = self._held_by(child)
        ops = self._forks.fork(parent, child)
        if ops is not None:
            child.num_stored = parent.num_stored
            if child.branch is None:
                child.branch = Branch(parent.branch, parent.num_stored, child.index)
            self.account.change(before, self._held_by(child))
        return ops

    def swap_out(self, request: Request) -> BlockOps | None:
        """Move a request's sequences to the host."""
        if self._swaps is None:
            return None
        before = self.account.held(request)
        ops = self._swaps.swap_out(request.live_sequences)
        if ops is not None:
            self.account.change(before, self.account.held(request))
        return ops

    def swap_in(self, request: Request, *, above: int) -> BlockOps | None:
        """Bring them back, leaving ``above`` blocks free."""
        swaps = self._swaps
        if swaps is None:
            raise InvariantError("a request is swapped though the allocator cannot swap")
        return self._above(above, request, lambda: swaps.swap_in(request.live_sequences))

    def release(self, sequence: Sequence) -> None:
        """Give the memory of a sequence back that has ended."""
        self.discard(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Give the memory of a sequence back that nobody goes on with."""
        before = self._held_by(sequence)
        if sequence.block_table:
            self.allocator.free(sequence)
        self.account.change(before, self._held_by(sequence))

    def free(self, request: Request) -> None:
        """Give all memory of a request back."""
        self._free(request, request.sequences)

    def _held_by(self, sequence: Sequence) -> Held:
        """Return a part of the account that changes when one sequence comes or goes."""
        request = sequence.request
        return self.account.held_alone(sequence) if request.prefix_group is None else self.account.held(request)

    def _free(self, request: Request, sequences: Listing[Sequence]) -> None:
        before = self.account.held(request)
        for sequence in sequences:
            if sequence.block_table:
                self.allocator.free(sequence)
        self.account.change(before, self.account.held(request))

    def _prompts(self, sequences: list[Sequence]) -> BlockOps | None:
        ops = BlockOps()
        for index, sequence in enumerate(sequences):
            more = self.allocator.allocate(sequence, sequence.num_prefill)
            if more is None:
                for granted in sequences[:index]:
                    self.allocator.free(granted)
                return None
            self._check_coverage(sequence, sequence.num_prefill)
            ops += more
        return ops

    def _above(self, floor: int, request: Request, call: Callable[[], BlockOps | None]) -> BlockOps | None:
        self.pool.floor = floor
        before = self.account.held(request)
        try:
            ops = call()
        finally:
            self.pool.floor = 0
        if ops is not None:
            self.account.change(before, self.account.held(request))
        return ops

    def _check_coverage(self, sequence: Sequence, num_tokens: int) -> None:
        capacity, needed = len(sequence.block_table) * self.pool.block_size, sequence.num_stored + num_tokens
        if capacity < needed:
            raise InvariantError(
                f"INV-2: {type(self.allocator).__name__}.allocate(sequence, {num_tokens}) answered that there is room, "
                f"but the block table covers {capacity} of {needed} tokens"
            )
