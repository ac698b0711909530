"""A policy that is asked one thing after the other, with every rule about its answer looked up at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Listing
from functools import partial
from typing import Any, NamedTuple

from pagesim.allocators.base import Forks, Prefixes, Swaps, counts_blocks, grows_by_block
from pagesim.blocks import BlockOps, BlockPool, SwapIn, SwapOut
from pagesim.sequence import Request, Sequence
from pagesim.testing import checks
from pagesim.testing.contents import Contents
from pagesim.testing.failure import RuleError
from pagesim.testing.policies import Policy


class Sizes(NamedTuple):
    """A device pool and the host's: blocks, slots of a block, blocks that an admission leaves free."""

    num_blocks: int
    block_size: int
    watermark: int
    host_blocks: int


class Left(NamedTuple):
    """What sequences had when they left for the host.

    Attributes:
        stored: blocks with stored tokens, of each.
        sharing: who shared what (see ``checks.sharing``).
    """

    stored: dict[Sequence, int]
    sharing: list[list[int]]


class Asked:
    """One policy over one pool. Every method asks it once, and raises RuleError where its answer breaks a rule.

    Methods that answer False found no room, and nothing has changed.

    Args:
        policy: how it is built.
        sizes: of its pool.
        max_model_len: the longest that a sequence may become.

    Attributes:
        names: what each sequence is called, of all that have ever been there.
        plan: block moves that have not been executed yet.
        tally: how often each verb was called, and refused.
    """

    def __init__(self, policy: Policy, sizes: Sizes, max_model_len: int) -> None:
        self.policy = policy
        self.sizes = sizes
        self.max_model_len = max_model_len
        self.allocator = self.make()
        self.pool: BlockPool = self.allocator.pool
        self.contents = Contents(self.pool)
        self.names: dict[Sequence, str] = {}
        self.plan = BlockOps()
        self.tally: Counter[str] = Counter()
        self.is_bulk = bool(getattr(self.allocator, "bulk", False))
        self.is_stable = bool(getattr(self.allocator, "stable_refusal", False))
        self.is_oracle = bool(getattr(self.allocator, "oracle", False))
        self.can_fork = isinstance(self.allocator, Forks)
        self.can_swap = isinstance(self.allocator, Swaps) and self.pool.host is not None
        self.can_share = isinstance(self.allocator, Prefixes)
        self.grows_by_block = grows_by_block(self.allocator)
        self.counts_blocks = counts_blocks(self.allocator)

    def make(self) -> Any:
        """Return the policy over an empty pool."""
        num_blocks, block_size, watermark, host_blocks = self.sizes
        host = BlockPool(host_blocks, block_size) if host_blocks else None
        pool = BlockPool(num_blocks, block_size, watermark=watermark, host=host)
        return self.policy.build(pool, self.max_model_len)

    def match(self, sequence: Sequence) -> int:
        """Return how many tokens of a prefix are there already."""
        if not self.can_share or sequence.request.prefix_group is None:
            return 0
        before, prompt = self._state(), sequence.request.prompt_tokens
        matched: int = self.allocator.match(sequence)
        self._unchanged(before, "answer", "match changes nothing")
        if not 0 <= matched < prompt:
            expected = f"match from 0 to {prompt - 1}: the last token of a prompt is computed"
            raise RuleError("answer", expected, f"{matched}")
        return matched

    def allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        """Ask for room for ``num_tokens`` more."""
        wanted = max(self.pool.blocks_for(sequence.num_stored + num_tokens) - len(sequence.block_table), 0)
        wanted += self.writes_to_shared(sequence)
        if self.counts_blocks and sequence.request.prefix_group is None:
            call = partial(self.allocator.allocate, sequence, num_tokens)
            is_granted = self._ask_counted("allocate", sequence, call, wanted)
        else:
            is_granted = self._ask("allocate", [sequence], partial(self.allocator.allocate, sequence, num_tokens))
        if not is_granted:
            return False
        self._check_room(sequence, sequence.num_stored + num_tokens)
        return True

    def allocate_again(self, sequence: Sequence, num_tokens: int) -> bool:
        """Ask for room for a sequence that holds something: what a bulk policy says of itself has to be so."""
        before, room, length = self._state(), self.room(sequence), len(sequence.block_table)
        num_free = self.pool.num_free
        is_exclusive = not self.writes_to_shared(sequence)
        is_granted = self.allocate(sequence, num_tokens)
        if self.is_bulk and room >= num_tokens and is_exclusive:
            has = f"{self.names[sequence]} has room for {room} tokens"
            if not is_granted:
                raise RuleError("bulk", f"room for {num_tokens}: {has}", "None")
            self._unchanged(before, "bulk", f"nothing changes: {has}")
        grown = len(sequence.block_table) - length
        is_full = room == 0 and num_tokens == 1 and length > 0 and is_exclusive
        if self.grows_by_block and is_full:
            taken = num_free - self.pool.num_free
            if is_granted and not grown == taken == 1:
                expected = "one more block of the pool for a full table"
                raise RuleError("grows_by_block", expected, f"{grown} in the table, {taken} of the pool")
            if num_free and not is_granted:
                raise RuleError("grows_by_block", f"a block for a full table: {num_free} are free", "None")
        return is_granted

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Let ``child`` go on from what ``parent`` has stored."""
        call = partial(self.allocator.fork, parent, child)
        if self.counts_blocks and parent.request.prefix_group is None:
            shares = bool(getattr(self.allocator, "shares_forks", False))
            is_granted = self._ask_counted(
                "fork", child, call, 0 if shares else self.pool.blocks_for(parent.num_stored)
            )
        else:
            is_granted = self._ask("fork", [child], call)
        if not is_granted:
            return False
        child.num_stored = parent.num_stored
        self._check_room(child, child.num_stored)
        return True

    def swap_out(self, sequences: Listing[Sequence]) -> Left | None:
        """Move ``sequences`` to the host; return what they had, None if there was no room there."""
        stored = {sequence: self.pool.blocks_for(sequence.num_stored) for sequence in sequences}
        left = Left(stored, checks.sharing(sequences, stored))
        had = [sequence for sequence in sequences if sequence.block_table]
        held, planned = self._num_homes(), len(self.plan)
        if not self._ask("swap_out", sequences, partial(self.allocator.swap_out, sequences)):
            return None
        for sequence in had:
            name, table = self.names[sequence], list(sequence.block_table)
            if table:
                raise RuleError("answer", f"an empty block table of {name} after swap_out", f"{table}")
            kept = len(sequence.resident_table) + len(sequence.host_table)
            if kept < stored[sequence]:
                raise RuleError("INV-12", f"{stored[sequence]} blocks of {name}, resident or on the host", f"{kept}")
        self._check_sharing(left, "after swap_out")
        self._check_transfers(SwapOut, planned, self._num_homes() - held)
        return left

    def swap_in(self, sequences: Listing[Sequence], left: Left) -> bool:
        """Bring ``sequences`` back."""
        homes, planned = {home for sequence in sequences for home in sequence.host_table}, len(self.plan)
        if not self._ask("swap_in", sequences, partial(self.allocator.swap_in, sequences)):
            return False
        for sequence in sequences:
            for what, table in (("host", sequence.host_table), ("resident", sequence.resident_table)):
                if table:
                    raise RuleError("answer", f"an empty {what} table of {self.names[sequence]}", f"{list(table)}")
            if sequence.num_stored:
                self._check_room(sequence, sequence.num_stored)
        self._check_sharing(left, "after swap_out and swap_in")
        self._check_transfers(SwapIn, planned, len(homes))
        return True

    def free(self, sequence: Sequence) -> None:
        """Take a sequence's memory away."""
        own = sum(self.pool.references(block) == 1 for block in sequence.block_table)
        call = partial(self.allocator.free, sequence)
        if self.counts_blocks and sequence.request.prefix_group is None:
            self._ask_counted("free", sequence, call, -own)
        else:
            self._ask("free", [sequence], call)
        table = list(sequence.block_table)
        if table:
            raise RuleError("answer", f"an empty block table of {self.names[sequence]} after free", f"{table}")

    def check_empty(self) -> None:
        """INV-11: nothing is held, on the device and on the host."""
        for what, pool in (("block", self.pool), ("host block", self.pool.host)):
            if pool is not None and pool.num_held:
                held = [block for block, count in enumerate(pool.ref_counts) if count]
                raise RuleError("INV-11", f"no {what} is held: every request has ended", f"{what}s {held} are held")

    def check_as_new(self, prompt: int, output: int) -> None:
        """INV-8: what a new policy over a new pool admits, this one admits too, over its empty pool."""
        answers = []
        for allocator in (self.make(), self.allocator):
            request = Request(0, 0, prompt, output)
            request.oracle = self.is_oracle
            sequence = request.sequences[0]
            answers.append(allocator.allocate(sequence, prompt) is not None)
            if answers[-1]:
                allocator.free(sequence)
        if answers == [True, False]:
            expected = f"room for a prompt of {prompt} tokens: the pool is empty, and a new one has room for it"
            raise RuleError("INV-8", expected, "None: it would wait for ever")
        self.check_empty()

    def room(self, sequence: Sequence) -> int:
        """Return how many tokens a sequence may store without asking."""
        return checks.capacity(sequence, self.pool.block_size) - sequence.num_stored

    def writes_to_shared(self, sequence: Sequence) -> bool:
        """Whether somebody shares one of the blocks that its next tokens go to."""
        written = sequence.block_table[sequence.num_stored // self.pool.block_size :]
        return any(self.pool.ref_counts[block] > 1 for block in written)

    def owners(self) -> dict[int, list[str]]:
        """Return who names each device block."""
        return checks.owners(self.names, self.names, self.allocator)

    def _ask(self, verb: str, changing: Iterable[Sequence], function: Callable[[], Any]) -> bool:
        """Call the policy, check what holds after any call, and keep its plan; return whether there was room."""
        before, generation = self._state(), self.pool.generation
        answer = function()
        self.tally[verb] += 1
        if self.pool.floor != before.floor:
            raise RuleError("answer", f"a policy leaves pool.floor alone: {before.floor}", f"{self.pool.floor}")
        if not _is_granted(verb, answer):
            self.tally[f"{verb} refused"] += 1
            self._unchanged(before, "INV-4", f"{verb} answered {answer}, so nothing has changed")
            return False
        checks.conservation(list(self.names), self.names, self.allocator)
        self._check_others(verb, before, set(changing))
        if isinstance(answer, BlockOps):
            self.plan += answer
        if not self.plan and generation != self.pool.generation:
            self.contents.poison()
        return True

    def _ask_counted(self, verb: str, sequence: Sequence, function: Callable[[], Any], wanted: int) -> bool:
        """Call a policy that says ``counts_blocks``: it takes ``wanted`` blocks of the pool, if so many are free."""
        num_free, num_held = self.pool.num_free, self.pool.num_held
        is_granted = self._ask(verb, [sequence], function)
        taken = self.pool.num_held - num_held
        expected = f"{verb} of {self.names[sequence]} takes {wanted} blocks of the pool: {num_free} are free"
        if is_granted and taken != wanted:
            raise RuleError("counts_blocks", expected, f"{taken}")
        if not is_granted and wanted <= num_free:
            raise RuleError("counts_blocks", expected, "None")
        return is_granted

    def _check_others(self, verb: str, before: checks.State, changing: set[Sequence]) -> None:
        """A call changes the tables of the sequences that it is about, and what a policy has to do with."""
        after = self._state()
        for sequence, holding in before.tables.items():
            now = after.tables[sequence]
            if sequence not in changing and now != holding:
                difference = before.difference(after, self.names)
                raise RuleError("answer", f"{verb} leaves the tables of other sequences alone", f"{difference}")
            if now.num_stored != holding.num_stored:
                found = f"{verb} made it {now.num_stored} for {self.names[sequence]}"
                raise RuleError("answer", f"a policy leaves num_stored alone: {holding.num_stored}", found)

    def _check_room(self, sequence: Sequence, num_tokens: int) -> None:
        checks.coverage(sequence, num_tokens, self.pool.block_size, self.names)

    def _check_sharing(self, left: Left, when: str) -> None:
        found = checks.sharing(left.stored, left.stored)
        if found != left.sharing:
            names = ", ".join(self.names[sequence] for sequence in left.stored)
            raise RuleError("INV-12", f"the same sharing {when} among {names}: {left.sharing}", f"{found}")

    def _check_transfers(self, kind: type[SwapOut] | type[SwapIn], planned: int, num_blocks: int) -> None:
        moved = sum(op.num_blocks for op in self.plan[planned:] if isinstance(op, kind))
        if moved != num_blocks:
            raise RuleError("INV-12", f"one transfer for each of {num_blocks} host blocks", f"{moved} are transferred")

    def _num_homes(self) -> int:
        return 0 if self.pool.host is None else self.pool.host.num_held

    def _state(self) -> checks.State:
        return checks.State.of(self.allocator, self.names)

    def _unchanged(self, before: checks.State, rule: str, expected: str) -> None:
        difference = before.difference(self._state(), self.names)
        if difference is not None:
            raise RuleError(rule, expected, difference)


def _is_granted(verb: str, answer: Any) -> bool:
    """Return whether an answer says that there was room. Raises RuleError if it is no answer at all."""
    if verb == "free":
        return True
    if answer is not None and not isinstance(answer, BlockOps):
        raise RuleError("answer", f"{verb} answers BlockOps, or None where there is no room", f"{answer!r}")
    return answer is not None
