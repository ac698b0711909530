"""Policies with one mistake each, of the kind that one makes, and the rules under which the contract reports them."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Listing
from typing import Any

from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.paged import Paged
from pagesim.allocators.placement import FirstFit
from pagesim.allocators.prefixes import PrefixTable
from pagesim.allocators.swapping import Swapping
from pagesim.blocks import BlockOps, BlockPool, Copy, SwapIn, SwapOut
from pagesim.sequence import Sequence

BROKEN: dict[type[Any], tuple[str, ...]] = {}
"""Policy -> the rules that it breaks."""


def breaks(*rules: str) -> Callable[[type[Any]], type[Any]]:
    """Enter a policy with the rules that it breaks, of which any may be reported."""

    def enter(policy: type[Any]) -> type[Any]:
        BROKEN[policy] = rules
        return policy

    return enter


@breaks("INV-1")
class LeaksABlock(Paged):
    """Keeps the last block of a long table."""

    def free(self, sequence: Sequence) -> None:
        """Forget one."""
        self.pool.give(sequence.block_table[:2])
        sequence.block_table = []


@breaks("INV-1")
class SharesWithoutCounting(CopyOnWrite):
    """Lets a child have its parent's blocks, and tells nobody."""

    def fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Copy the table alone."""
        child.block_table = parent.block_table[: self.pool.blocks_for(parent.num_stored)]
        return BlockOps()


@breaks("INV-1")
class KeepsTheHost(Swapping):
    """Never gives host blocks back."""

    def swap_in(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Bring everything back, and take it again."""
        homes = [list(sequence.host_table) for sequence in sequences]
        ops = super().swap_in(sequences)
        if ops is not None and homes[0] and self.pool.host is not None:
            self.pool.host.take(1)
        return ops


@breaks("INV-2")
class CountsOneTooFew(Paged):
    """Forgets the token that is about to be written."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Make room for one less."""
        return super().allocate(sequence, num_tokens - 1)


@breaks("INV-2")
class AsksForTooLittle(Contiguous):
    """Says that it asked for less than it was given to store."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Understate."""
        ops = super().allocate(sequence, num_tokens)
        if ops is not None and sequence.num_stored + num_tokens > 3:
            sequence.num_asked = 3
        return ops


@breaks("INV-3")
class NeverCopies(CopyOnWrite):
    """Writes to blocks that others share."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take what is missing, and look at no reference count."""
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(sequence.block_table)
        if missing > self.pool.num_free:
            return None
        sequence.block_table += self.pool.take(max(missing, 0))
        return BlockOps()


@breaks("INV-3")
class GivesOneBlockToTwo(Paged):
    """Finds a free block by itself, and finds one that is not free."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take the first block twice."""
        if not sequence.block_table and num_tokens <= self.pool.block_size and self.pool.ref_counts[0]:
            self.pool.share([0])
            sequence.block_table = [0]
            return BlockOps()
        return super().allocate(sequence, num_tokens)


@breaks("INV-4")
class TakesAndRefuses(Paged):
    """Takes what there is before it finds that it is too little."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take in parts."""
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(sequence.block_table)
        for _ in range(missing):
            if not self.pool.num_free:
                return None
            sequence.block_table += self.pool.take(1)
        return BlockOps()


@breaks("INV-4")
class RemembersARefusal(Contiguous):
    """Notes what it asked for although it got nothing."""

    def fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Note it first."""
        child.num_asked = parent.num_asked
        return super().fork(parent, child)


@breaks("INV-8")
class CountsForItself(Paged):
    """Keeps a count of free blocks of its own, and forgets to count what comes back."""

    def __init__(self, pool: BlockPool) -> None:
        super().__init__(pool)
        self.budget = 2 * pool.num_blocks

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take from the budget."""
        before = len(sequence.block_table)
        if self.pool.blocks_for(sequence.num_stored + num_tokens) - before > self.budget:
            return None
        ops = super().allocate(sequence, num_tokens)
        self.budget -= len(sequence.block_table) - before
        return ops


class _ForgetsHoles(FirstFit):
    def release(self, run: range) -> None:
        """Forget neighbours."""
        self.holes.append(run)
        self.holes.sort(key=lambda hole: hole.start)


@breaks("INV-8")
class NeverMerges(Contiguous):
    """Leaves the pool in pieces."""

    def __init__(self, pool: BlockPool, max_model_len: int) -> None:
        super().__init__(pool, max_model_len, "oracle", "first_fit")
        self.placement = _ForgetsHoles(pool.num_blocks)


@breaks("INV-8")
class AdmitsNobody(Paged):
    """Is too careful."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Refuse."""
        return None


@breaks("INV-9")
class PutsNewBlocksFirst(Paged):
    """Grows a table at its wrong end."""

    bulk = False

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Put what is new in front."""
        table, sequence.block_table = sequence.block_table, []
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(table)
        if missing > self.pool.num_free:
            sequence.block_table = table
            return None
        sequence.block_table = [*self.pool.take(max(missing, 0)), *table]
        return BlockOps()


@breaks("INV-9")
class ForgetsTheCopy(CopyOnWrite):
    """Takes a block of its own for a shared one, and copies nothing."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Lose the plan."""
        ops = super().allocate(sequence, num_tokens)
        return None if ops is None else BlockOps()


@breaks("INV-9")
class CopiesBackwards(Paged):
    """Copies the child's new blocks over its parent's."""

    def fork(self, parent: Sequence, child: Sequence) -> BlockOps | None:
        """Mix up source and destination."""
        ops = super().fork(parent, child)
        return None if ops is None else BlockOps(Copy(op.destination, op.source) for op in ops if isinstance(op, Copy))


@breaks("INV-9")
class MovesWithoutCopying(Contiguous):
    """Leaves the tokens behind when a run moves."""

    def __init__(self, pool: BlockPool, max_model_len: int) -> None:
        super().__init__(pool, max_model_len, "pow2", "first_fit")

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Lose the plan."""
        ops = super().allocate(sequence, num_tokens)
        return None if ops is None else BlockOps()


@breaks("INV-9", "INV-12")
class ComesBackInAnotherOrder(Swapping):
    """Brings the last block back first."""

    def swap_in(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Turn every table round."""
        ops = super().swap_in(sequences)
        if ops is not None:
            for sequence in sequences:
                sequence.block_table.reverse()
        return ops


class _Unwritten(PrefixTable):
    def match(self, sequence: Sequence) -> list[int]:
        """Do not wait for the writer."""
        entry = self.entry(sequence)
        return [] if entry is None else entry.blocks[: self._num_blocks(sequence)]


@breaks("INV-9")
class SharesUnwrittenPrefixes(CopyOnWrite):
    """Shares a prefix before its first user has stored it."""

    def __init__(self, pool: BlockPool) -> None:
        super().__init__(pool)
        self.prefixes = _Unwritten(pool)


@breaks("INV-12")
class SwapsSharersApart(Swapping):
    """Moves a shared block once for each of its sharers."""

    def swap_out(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Take a host block for each entry of each table."""
        pool, host, ops = self.pool, self.pool.host, BlockOps()
        tables = [sequence.block_table[: pool.blocks_for(sequence.num_stored)] for sequence in sequences]
        if host is None or sum(map(len, tables)) > host.num_free:
            return None
        for sequence, table in zip(sequences, tables, strict=True):
            self.prefixes.leaving(sequence)
            sequence.host_table = host.take(len(table))
            ops += [SwapOut(device, home) for device, home in zip(table, sequence.host_table, strict=True)]
            pool.give(sequence.block_table)
            sequence.block_table = []
            self.prefixes.left(sequence)
        return ops


@breaks("INV-12")
class SwapsToTheWrongPlace(Contiguous):
    """Writes every table to the first host block."""

    def swap_out(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Forget where the run went."""
        ops = super().swap_out(sequences)
        return None if ops is None else BlockOps(SwapOut(op.device, 0, op.num_blocks) for op in ops)  # type: ignore[union-attr]


@breaks("INV-12")
class SwapsInTwice(Swapping):
    """Transfers more than it has to."""

    def swap_in(self, sequences: Listing[Sequence]) -> BlockOps | None:
        """Say everything twice."""
        ops = super().swap_in(sequences)
        return None if ops is None else BlockOps([*ops, *(SwapIn(*op) for op in ops)])


@breaks("bulk")
class TakesOneMoreEachTime(Paged):
    """Takes a spare block in every call, and says that calls may be left out."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take one for later."""
        ops = super().allocate(sequence, num_tokens)
        if ops is not None and self.pool.num_free:
            sequence.block_table += self.pool.take(1)
        return ops


@breaks("stable_refusal")
class RefusesOnce(Paged):
    """Says no at first, as a matter of principle."""

    bulk = False

    def __init__(self, pool: BlockPool) -> None:
        super().__init__(pool)
        self.asked: set[Sequence] = set()

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Let a sequence ask twice."""
        if self.pool.num_held and sequence not in self.asked:
            self.asked.add(sequence)
            return None
        return super().allocate(sequence, num_tokens)


@breaks("answer")
class AnswersTrue(Paged):
    """Forgets the plan."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> Any:
        """Say yes."""
        return super().allocate(sequence, num_tokens) is not None


@breaks("answer")
class LooksIntoTheFuture(Paged):
    """Reads what only an oracle may read."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take all that will be needed."""
        return super().allocate(sequence, max(num_tokens, sequence.future.output_tokens))


@breaks("answer")
class RaisesAtTheEnd(Paged):
    """Assumes that every table has two blocks."""

    def free(self, sequence: Sequence) -> None:
        """Look at the second one."""
        assert sequence.block_table[1] >= 0
        super().free(sequence)


@breaks("answer")
class LiftsTheWatermark(Paged):
    """Helps itself to what an admission must leave free."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Lower the floor."""
        self.pool.floor = 0
        return super().allocate(sequence, num_tokens)


@breaks("answer")
class CountsTokensItself(Paged):
    """Does the scheduler's work."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Note that they are stored."""
        ops = super().allocate(sequence, num_tokens)
        if ops is not None:
            sequence.num_stored += num_tokens
        return ops


@breaks("answer")
class TakesFromOthers(Paged):
    """Tidies up the tables of others."""

    def __init__(self, pool: BlockPool) -> None:
        super().__init__(pool)
        self.last: Sequence | None = None

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Turn the table of the one before round."""
        ops = super().allocate(sequence, num_tokens)
        if ops is not None and self.last is not None and self.last is not sequence:
            self.last.block_table = self.last.block_table[::-1]
        self.last = sequence
        return ops


@breaks("bulk", "grows_by_block")
class KeepsAReserve(Paged):
    """Says that it grows by single blocks, and refuses the last one."""

    grows_by_block = True

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Leave a block free when a table grows."""
        if sequence.block_table and self.pool.num_free == 1:
            return None
        return super().allocate(sequence, num_tokens)


@breaks("grows_by_block")
class GrowsByTwo(Paged):
    """Says that it grows by single blocks, and takes two."""

    grows_by_block = True

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take one more where there is one."""
        length = len(sequence.block_table)
        ops = super().allocate(sequence, num_tokens)
        if ops is not None and 0 < length < len(sequence.block_table) and self.pool.num_free:
            sequence.block_table += self.pool.take(1)
        return ops


@breaks("counts_blocks")
class TakesAPairFirst(Paged):
    """Says that only numbers of blocks matter, and begins with two where one would do."""

    counts_blocks = True
    grows_by_block = True

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take one more for a fresh sequence, where there is one."""
        is_fresh = not sequence.block_table
        ops = super().allocate(sequence, num_tokens)
        if ops is not None and is_fresh and len(sequence.block_table) == 1 and self.pool.num_free:
            sequence.block_table += self.pool.take(1)
        return ops


@breaks("counts_blocks")
class CopiesWhatItSaysItShares(Paged):
    """Says that forks share their blocks, and copies them."""

    counts_blocks = True
    shares_forks = True
