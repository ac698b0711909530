"""A backend that moves named tokens, and looks up the rules of memory before and after it writes."""

from __future__ import annotations

from collections.abc import Sequence as Listing

from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.backend import Step, StepResult
from pagesim.sequence import Request, Sequence
from pagesim.testing import checks
from pagesim.testing.contents import Contents
from pagesim.testing.failure import RuleError
from pagesim.testing.picture import draw


class CheckingBackend:
    """Moves named tokens; looks up the rules of memory in each step.

    Args:
        allocator: whose pool it is.
        account: that is kept of it.
        requests: all that there are.
    """

    def __init__(self, allocator: Allocator, account: Account, requests: Listing[Request]) -> None:
        self.allocator = allocator
        self.account = account
        self.requests = requests
        self.contents = Contents(allocator.pool)

    def execute(self, step: Step) -> StepResult:
        """Perform a step. Its duration depends on everything that a cost model may look at."""
        pool, contents = self.allocator.pool, self.contents
        names = self.names()
        self._check_counts(step, names)
        checks.conservation(list(names), names, self.allocator)
        self._check_account()
        contents.perform(step.ops)
        for sequence, name in names.items():
            self._read(sequence, name, sequence.num_stored)
        work = [(chunk.sequence, chunk.num_tokens) for chunk in step.prefills]
        work += [(sequence, 1) for sequence in step.decodes]
        held = checks.owners(names, names, self.allocator)
        for sequence, num_tokens in work:
            stored = sequence.num_stored
            checks.coverage(sequence, stored + num_tokens, pool.block_size, names)
            checks.exclusive(sequence, stored, num_tokens, pool.block_size, held)
            for position in range(stored, stored + num_tokens):
                contents.device[contents.slot(sequence.block_table, position)] = token_of(sequence, position)
        for sequence, num_tokens in work:
            self._read(sequence, names[sequence], sequence.num_stored + num_tokens)
        contents.poison()
        ticks = 1 + step.num_tokens + step.context_tokens % 5 + step.table_entries % 3 + len(step.ops)
        return StepResult(ticks, overhead=ticks)

    def names(self) -> dict[Sequence, str]:
        """Return what each sequence is called: 3 or 3.1."""
        return {
            sequence: str(request.id) if len(request.sequences) == 1 else f"{request.id}.{sequence.index}"
            for request in self.requests
            for sequence in request.sequences
        }

    def picture(self) -> str:
        """Return the pool as text."""
        names = self.names()
        return draw(self.contents, checks.owners(names, names, self.allocator), checks.host_owners(names, names))

    def _read(self, sequence: Sequence, name: str, num_tokens: int) -> None:
        contents, size = self.contents, self.allocator.pool.block_size
        table = sequence.block_table or [*sequence.resident_table, *sequence.host_table]
        if not table:
            return
        on_device = len(sequence.block_table or sequence.resident_table) * size
        for position in range(num_tokens):
            memory = contents.device if position < on_device else contents.host
            slot, wanted = contents.slot(table, position), token_of(sequence, position)
            if memory.get(slot) != wanted:
                rule = "INV-9" if sequence.block_table else "INV-12"
                found = memory.get(slot, "nothing")
                raise RuleError(rule, f"{name} reads {wanted} as its token {position}", f"{found} in slot {slot}")

    def _check_counts(self, step: Step, names: dict[Sequence, str]) -> None:
        """The counts by which a cost model prices a step are those of its sequences, and no prefill is empty."""
        empty = [names[chunk.sequence] for chunk in step.prefills if chunk.num_tokens < 1]
        if empty:
            raise RuleError(
                "answer", "a step that prefills one token or more of each prompt in it", f"{empty} with none"
            )
        entries = sum(len(s.block_table) for s in [*step.decodes, *(chunk.sequence for chunk in step.prefills)])
        wanted = (len(step.decodes), sum(sequence.num_stored + 1 for sequence in step.decodes), entries)
        found = (step.num_decodes, step.context_tokens, step.table_entries)
        if wanted != found:
            raise RuleError("answer", f"a step with (num_decodes, context_tokens, table_entries) {wanted}", f"{found}")

    def _check_account(self) -> None:
        account, pool = self.account, self.allocator.pool
        parts = {name: getattr(account, name) for name in ("useful", "cached", "internal", "external", "free")}
        if account.live > account.useful or min(parts.values()) < 0 or sum(parts.values()) != account.num_slots:
            found = f"{parts | {'live': account.live}} of {pool.num_blocks * pool.block_size}"
            raise RuleError("account", "parts that are not negative and sum to the pool, live within useful", found)


def token_of(sequence: Sequence, position: int) -> str:
    """Return the name of a token by its history: prefix, prompt, or the branch that it was generated on."""
    request, branch = sequence.request, sequence.branch
    if request.prefix_group is not None and position < request.prefix_tokens:
        return f"g{request.prefix_group}@{position}"
    if position < request.prompt_tokens:
        return f"{request.id}@{position}"
    while branch is not None and branch.parent is not None and position < branch.position:
        branch = branch.parent
    return f"{request.id}.{sequence.index if branch is None else branch.way}@{position}"
