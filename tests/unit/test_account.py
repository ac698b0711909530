"""The account: which part every slot is in, for one request at a time."""

from __future__ import annotations

import pytest

from pagesim.account import NOTHING, Account, Held
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.paged import Paged
from pagesim.blocks import BlockPool
from pagesim.sequence import Request
from tests.support.runs import Server
from tests.support.sequences import fork, make_request, store


def test_nothing_is_held_by_a_request_without_a_table() -> None:
    assert Account(BlockPool(4, 4), 16).held(make_request(3)) == NOTHING == Held(0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("prompt", "output", "stored", "live", "useful", "internal"),
    [
        (5, 10, 5, 5, 8, 0),  # two blocks, all of which will be written
        (5, 3, 5, 5, 7, 1),  # five stored, two to come (the last one is never stored), one never written
        (5, 1, 5, 5, 5, 3),  # a one-token output stores nothing but its prompt
        (8, 2, 8, 8, 8, 0),
    ],
)
def test_a_paged_table_is_live_reserved_and_internal(
    prompt: int, output: int, stored: int, live: int, useful: int, internal: int
) -> None:
    allocator = Paged(BlockPool(4, 4))
    request = make_request(prompt, output)
    store(allocator, request.sequences[0], stored)
    expected = Held(live=live, useful=useful, internal=internal, external=0, references=-(-prompt // 4))
    assert Account(allocator.pool, 16).held(request) == expected


def test_blocks_are_reserved_before_anything_is_stored_in_them() -> None:
    allocator = Paged(BlockPool(4, 4))
    request = make_request(5, 2)
    allocator.allocate(request.sequences[0], 5)
    assert Account(allocator.pool, 16).held(request) == Held(0, 6, 2, 0, 2)


def test_the_round_up_of_a_placement_is_external() -> None:
    allocator = Contiguous(BlockPool(32, 1), 32, "oracle", "buddy")
    request = make_request(7, 6)  # asks for 12, gets a chunk of 16
    store(allocator, request.sequences[0], 7)
    assert Account(allocator.pool, 32).held(request) == Held(live=7, useful=12, internal=0, external=4, references=16)


def test_a_reservation_that_is_too_short_is_all_useful() -> None:
    allocator = Contiguous(BlockPool(32, 1), 32, "pow2", "first_fit")
    request = make_request(7, 9, estimate=2)
    store(allocator, request.sequences[0], 7)
    assert Account(allocator.pool, 32).held(request) == Held(live=7, useful=9, internal=0, external=0, references=9)


def test_a_shared_slot_counts_once() -> None:
    allocator = CopyOnWrite(BlockPool(8, 4))
    request = make_request(6, 5, num_sequences=3)
    account = Account(allocator.pool, 32)
    parent = request.sequences[0]
    store(allocator, parent, 6)
    for child in request.sequences[1:]:
        fork(allocator, parent, child)
    assert account.held(request) == Held(live=6, useful=8, internal=0, external=0, references=6)
    store(allocator, parent, 1)  # copies the partial block
    assert account.held(request) == Held(live=4 + 3 + 2, useful=12, internal=0, external=0, references=6)
    for child in request.sequences[1:]:
        store(allocator, child, 1)
    assert account.held(request) == Held(live=4 + 3 * 3, useful=16, internal=0, external=0, references=6)


def test_of_sharers_with_different_lengths_the_longest_says_what_is_reserved() -> None:
    allocator = CopyOnWrite(BlockPool(8, 4))
    request = make_request(5, 4, num_sequences=2)
    request.sequences[1].num_output = 1
    store(allocator, request.sequences[0], 5)
    fork(allocator, request.sequences[0], request.sequences[1])
    assert Account(allocator.pool, 32).held(request) == Held(live=5, useful=8, internal=0, external=0, references=4)
    allocator.free(request.sequences[0])  # its sharer writes nothing more
    assert Account(allocator.pool, 32).held(request) == Held(live=5, useful=5, internal=3, external=0, references=2)


def test_a_retired_sequence_is_internal() -> None:
    allocator = Paged(BlockPool(4, 4))
    request = make_request(5, 3)
    store(allocator, request.sequences[0], 7)
    request.sequences[0].retired = True
    assert Account(allocator.pool, 16).held(request) == Held(0, 0, 8, 0, 2)


def test_changes_add_up() -> None:
    account = Account(BlockPool(4, 4), 18)
    assert (account.tail, account.free) == (2, 16)
    account.change(NOTHING, Held(1, 2, 3, 4, 5, 6))
    account.change(Held(1, 1, 1, 1, 1, 1), Held(2, 2, 2, 2, 2, 2))
    found = (account.live, account.useful, account.internal, account.external, account.references, account.cached)
    assert found == (2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(("output", "useful"), [(20, 4), (3, 2), (2, 1)])
def test_one_more_block_for_sequences_whose_tables_are_full(output: int, useful: int) -> None:
    """What is counted at once for many sequences is what walking their tables gives."""
    allocator = Paged(BlockPool(8, 4))
    account = Account(allocator.pool, 32)
    requests = [make_request(4, 20), make_request(4, output)]
    for request in requests:
        store(allocator, request.sequences[0], 4)
    before = [account.held(request) for request in requests]
    for request in requests:
        assert allocator.allocate(request.sequences[0], 1) is not None
    account.extended(2, 4 - useful)
    walked = Account(allocator.pool, 32)
    for old, request in zip(before, requests, strict=True):
        walked.change(old, account.held(request))
    assert (account.useful, account.internal, account.references) == (4 + useful, 4 - useful, 2)
    assert (account.useful, account.internal, account.references) == (walked.useful, walked.internal, walked.references)


def test_the_paper_s_pool_of_opt_13b() -> None:
    """12 GiB at 819,200 bytes a token are 15,728 slots: seven maximal runs, and a tail that nobody can use."""
    kv_bytes_per_token = 2 * 40 * 40 * 128 * 2
    slots = 12 * 2**30 // kv_bytes_per_token
    assert (kv_bytes_per_token, slots) == (819_200, 15_728)
    assert (slots // 2048, slots % 2048, f"{slots % 2048 / slots:.2%}") == (7, 1392, "8.85%")


@pytest.mark.parametrize("placement", ["buddy", "first_fit", "best_fit"])
def test_seven_maximal_runs_fit_and_the_tail_is_external_while_the_eighth_waits(placement: str) -> None:
    server = Server(15_728, 1, f"max-{placement}", max_model_len=2048, max_num_batched_tokens=4096)
    for number in range(8):
        server.sched.add(Request(number, 0, 100, 100))
    step = server.sched.schedule(0)
    assert [chunk.sequence.request.id for chunk in step.prefills] == list(range(7))
    assert server.account.free == 1392
    assert server.sched.refused_by_allocator
