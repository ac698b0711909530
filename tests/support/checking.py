"""Policies that are checked after each call, and a backend that checks the account before each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.backend import Step, StepResult
from pagesim.sequence import Request, Sequence
from tests.support.contents import ContentBackend

_VERBS = ("allocate", "free", "fork", "swap_out", "swap_in")


def seen_by(allocator: Any) -> dict[Sequence, None]:
    """Return the sequences that an allocator has been called with; a twin over an empty pool has its own."""
    seen: dict[Sequence, None] = allocator.__dict__.setdefault("_seen", {})
    return seen


class Watch:
    """Holds a policy to the invariants that concern it.

    It takes the place of each verb on the instance's class, so that the policy keeps its capabilities.
    """

    def __init__(self, policy: type[Any]) -> None:
        self.num_calls: Counter[str] = Counter()
        self.num_refusals: Counter[str] = Counter()
        verbs = {verb: self._checked(verb, getattr(policy, verb)) for verb in _VERBS if hasattr(policy, verb)}
        self.policy: type[Any] = type(f"Checked{policy.__name__}", (policy,), verbs)

    def _checked(self, verb: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(allocator: Any, *args: Any) -> Any:
            if allocator.__dict__.get("_is_watched"):  # one verb inside another
                return method(allocator, *args)
            sequences = [
                s for arg in args for s in (arg if isinstance(arg, list) else [arg]) if isinstance(s, Sequence)
            ]
            seen_by(allocator).update(dict.fromkeys(sequences))
            before = self.state(allocator)
            allocator.__dict__["_is_watched"] = True
            answer = method(allocator, *args)
            allocator.__dict__["_is_watched"] = False
            self.num_calls[verb] += 1
            if verb != "free" and (answer is None or answer is False):
                self.num_refusals[verb] += 1
                assert self.state(allocator) == before, f"INV-4: {verb}{args} refused, and something has changed"
            self.conservation(allocator)
            self.outcome(allocator, verb, args, answer)
            return answer

        return call

    def state(self, allocator: Any) -> Any:
        """Return everything that a refused call must leave alone."""
        pool = allocator.pool
        tables = {
            sequence: (list(sequence.block_table), list(sequence.host_table), list(sequence.resident_table))
            for sequence in seen_by(allocator)
        }
        asked = {sequence: sequence.num_asked for sequence in seen_by(allocator)}
        host = None if pool.host is None else (list(pool.host.ref_counts), pool.host.num_free)
        largest = allocator.largest_free_run() if hasattr(allocator, "largest_free_run") else None
        return tables, asked, list(pool.ref_counts), pool.num_free, host, largest

    def conservation(self, allocator: Any) -> None:
        """Check INV-1, on the device and on the host, and that a table names a block once."""
        pool = allocator.pool
        holders = Counter(
            block
            for sequence in seen_by(allocator)
            for table in (sequence.block_table, sequence.resident_table)
            for block in table
        )
        prefixes = getattr(allocator, "prefixes", None)
        if prefixes is not None and prefixes.pin:
            holders.update(block for entry in prefixes.entries.values() for block in entry.blocks)
        assert pool.ref_counts == [holders[block] for block in range(pool.num_blocks)], "INV-1: references"
        assert pool.num_held == len(holders), "INV-1: free + distinct held"
        if pool.host is not None:
            homes = Counter(home for sequence in seen_by(allocator) for home in sequence.host_table)
            assert pool.host.ref_counts == [homes[home] for home in range(pool.host.num_blocks)], "INV-1: host"
            assert pool.host.num_held == len(homes), "INV-1: host"
        for sequence in seen_by(allocator):
            for table in (sequence.block_table, sequence.host_table):
                assert len(set(table)) == len(table), f"a block stands twice in {sequence}"

    def outcome(self, allocator: Any, verb: str, args: tuple[Any, ...], answer: Any) -> None:
        """Check what a verb promises."""
        pool = allocator.pool
        if verb == "free":
            assert not args[0].block_table
        elif verb == "allocate" and answer is not None:
            self.room(pool, args[0], args[1])
        elif verb == "fork" and answer is not None:
            parent, child = args
            assert len(child.block_table) * pool.block_size >= parent.num_stored, "INV-2: a forked table"
        elif verb == "swap_out" and answer is not None:
            assert not any(sequence.block_table for sequence in args[0])
        elif verb == "swap_in" and answer is not None:
            for sequence in args[0]:
                assert not sequence.host_table
                assert len(sequence.block_table) * pool.block_size >= sequence.num_stored, "INV-2: after swap_in"

    @staticmethod
    def room(pool: Any, sequence: Sequence, num_tokens: int) -> None:
        """Check INV-2 and INV-3 for the tokens that are stored next."""
        stored, size = sequence.num_stored, pool.block_size
        assert len(sequence.block_table) * size >= stored + num_tokens, "INV-2: coverage"
        if sequence.request.prefix_group is not None and not stored:
            return  # it may start with blocks that it will not write
        written = sequence.block_table[stored // size : pool.blocks_for(stored + num_tokens)]
        assert [pool.ref_counts[block] for block in written] == [1] * len(written), "INV-3: exclusive writes"


class CheckingBackend(ContentBackend):
    """Reads and writes contents, and counts every slot of the pool anew before each step.

    Args:
        account: that is kept by differences.
        allocator: whose pool it is.
        requests: all that there are.
    """

    def __init__(self, account: Account, allocator: Allocator, requests: list[Request]) -> None:
        super().__init__(account.block_size)
        self.account = account
        self.allocator = allocator
        self.requests = requests
        self.num_steps = 0
        self.num_shared_steps = 0

    def execute(self, step: Step) -> StepResult:
        """Check, then perform."""
        self.num_steps += 1
        assert step.num_decodes == len(step.decodes)
        assert step.context_tokens == sum(sequence.num_stored + 1 for sequence in step.decodes)
        entries = sum(len(s.block_table) for s in [*step.decodes, *(chunk.sequence for chunk in step.prefills)])
        assert step.table_entries == entries
        self.check_account()
        return super().execute(step)

    def check_account(self) -> None:
        """Count every block from all tables; compare with what was kept by differences."""
        size = self.block_size
        blocks: dict[int, tuple[int, int, int]] = {}
        references = 0
        for sequence in (sequence for request in self.requests for sequence in request.sequences):
            is_swapped = bool(sequence.resident_table)
            table = sequence.resident_table if is_swapped else sequence.block_table
            references += len(table)
            asked = len(table) * size if sequence.num_asked is None else sequence.num_asked
            stored, final = (0, 0) if sequence.retired else (sequence.num_stored, sequence.num_final)
            for index, block in enumerate(table):
                here = tuple(min(max(slots - index * size, 0), size) for slots in (stored, min(asked, final), asked))
                there = blocks.get(block, (0, 0, 0))
                blocks[block] = (max(here[0], there[0]), max(here[1], there[1]), max(here[2], there[2]))
        cached = self._cached(blocks)
        account, pool = self.account, self.allocator.pool
        found = {
            "live": account.live,
            "useful": account.useful,
            "internal": account.internal,
            "external": account.external,
            "references": account.references,
            "cached": account.cached,
        }
        live = sum(block[0] for block in blocks.values())
        useful = sum(block[1] for block in blocks.values())
        asked = sum(block[2] for block in blocks.values())
        assert found == {
            "live": live,
            "useful": useful,
            "internal": asked - useful,
            "external": len(blocks) * size - asked,
            "references": references,
            "cached": cached,
        }
        held = useful + account.internal + account.external + cached
        assert held + account.free == pool.num_blocks * size, "the parts do not sum to the pool"
        self.num_shared_steps += references > len(blocks)

    def _cached(self, blocks: dict[int, Any]) -> int:
        """Return the slots that only a pin holds."""
        prefixes = getattr(self.allocator, "prefixes", None)
        if prefixes is None:
            return 0
        pinned = {block for entry in prefixes.entries.values() for block in entry.blocks}
        return len(pinned - set(blocks)) * self.block_size
