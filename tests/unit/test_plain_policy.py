"""A policy that has two verbs and says nothing about itself is asked every time, and for nothing else."""

from __future__ import annotations

import pytest

from pagesim.account import Account
from pagesim.backend import FakeBackend
from pagesim.blocks import BlockOps, BlockPool
from pagesim.errors import InvariantError
from pagesim.schedulers.memory import Memory
from pagesim.sequence import Request, Sequence
from tests.support.runs import Server


class Plain:
    """Pages, and a list of what was asked."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.asked: list[tuple[int, int, int]] = []

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Note (request, stored, more)."""
        self.asked.append((sequence.request.id, sequence.num_stored, num_tokens))
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(sequence.block_table)
        if missing > self.pool.num_free:
            return None
        sequence.block_table += self.pool.take(max(missing, 0))
        return BlockOps()

    def free(self, sequence: Sequence) -> None:
        """Give all back."""
        self.pool.give(sequence.block_table)
        sequence.block_table.clear()


@pytest.mark.parametrize("fast_forward", [True, False])
def test_it_is_asked_for_each_token_and_after_each_refusal(fast_forward: bool) -> None:
    server = Server(1, 8, lambda pool, _: Plain(pool))
    server.run([Request(0, 0, 3, 4), Request(1, 0, 5, 2)], backend=FakeBackend(1), fast_forward=fast_forward)
    assert isinstance(server.alloc, Plain)
    first = [(0, 0, 3), (0, 3, 1), (0, 4, 1), (0, 5, 1)]
    refused = [(1, 0, 5)] * 4
    asked = server.alloc.asked
    assert [each for each in asked if each[0] == 0] == first
    assert [each for each in asked if each[0] == 1] == [*refused, (1, 0, 5), (1, 5, 1)]


def test_two_samples_prefill_their_own_prompts_and_no_step_has_an_empty_prefill() -> None:
    server = Server(8, 4, lambda pool, _: Plain(pool), "chunked", max_num_batched_tokens=5)
    request = Request(0, 0, 5, 3, 2)
    server.sched.add(request)
    step = server.sched.schedule(0)
    assert [(chunk.sequence.index, chunk.num_tokens) for chunk in step.prefills] == [(0, 5)]
    server.sched.commit(step, 1)
    step = server.sched.schedule(1)
    assert [(chunk.sequence.index, chunk.num_tokens) for chunk in step.prefills] == [(1, 4)]
    assert step.num_decodes == 1


def test_who_asks_it_for_more_has_made_a_mistake() -> None:
    pool = BlockPool(4, 2)
    memory = Memory(Plain(pool), Account(pool, 8))
    request = Request(0, 0, 2, 2, 2)
    assert not memory.can_fork
    assert not memory.can_swap
    assert memory.swap_out(request) is None
    with pytest.raises(InvariantError, match="a sequence is forked though the allocator cannot fork"):
        memory.fork(*request.sequences)
    with pytest.raises(InvariantError, match="a request is swapped though the allocator cannot swap"):
        memory.swap_in(request, above=0)
