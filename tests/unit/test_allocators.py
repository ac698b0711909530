"""Each policy by itself: what it asks for, where it puts it, what it copies and what it refuses."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagesim.allocators.base import Allocator, Forks, Prefixes, Swaps, counts_blocks, grows_by_block
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.blocks import BlockOps, BlockPool, Copy, SwapIn, SwapOut
from pagesim.errors import ConfigError, PluginError
from pagesim.promises import says
from pagesim.sequence import Request, Sequence
from tests.support.runs import ALLOCATORS
from tests.support.sequences import fork, make_request, make_sequence, store

PAGED = [Paged, CopyOnWrite, Swapping]


# On demand


@pytest.mark.parametrize("policy", PAGED)
def test_blocks_come_when_tokens_need_them(policy: type[Paged]) -> None:
    allocator = policy(BlockPool(8, 4))
    sequence = make_sequence(5)
    held = []
    for tokens in (5, 1, 1, 1, 1, 7):
        assert store(allocator, sequence, tokens) == []
        held.append(len(sequence.block_table))
    assert held == [2, 2, 2, 2, 3, 4]
    assert allocator.pool.num_held == 4


@pytest.mark.parametrize("policy", PAGED)
def test_a_refused_growth_changes_nothing_and_free_gives_all_back(policy: type[Paged]) -> None:
    allocator = policy(BlockPool(3, 2))
    first, second = make_sequence(3), make_sequence(2)
    store(allocator, first, 4)
    store(allocator, second, 2)
    table = list(first.block_table)
    assert allocator.allocate(first, 1) is None
    assert (first.block_table, allocator.pool.num_free) == (table, 0)
    allocator.free(second)
    assert list(second.block_table) == []
    assert store(allocator, first, 1) == []
    assert first.block_table[:2] == table
    allocator.free(first)
    assert (list(first.block_table), allocator.pool.num_free) == ([], 3)


@pytest.mark.parametrize("policy", PAGED)
def test_the_watermark_counts_while_admitting_only(policy: type[Paged]) -> None:
    allocator = policy(BlockPool(4, 2, watermark=2))
    pool, sequence = allocator.pool, make_sequence(5)
    pool.floor = 2
    assert allocator.allocate(sequence, 5) is None
    assert allocator.allocate(sequence, 4) == []
    pool.floor = 0
    sequence.num_stored = 4
    assert store(allocator, sequence, 4) == []
    assert pool.num_free == 0


@pytest.mark.parametrize("policy", PAGED)
def test_a_full_table_takes_one_block_while_one_is_free(policy: type[Paged]) -> None:
    """The law of ``grows_by_block``, by which the scheduler takes such blocks itself."""
    allocator = policy(BlockPool(5, 2))
    assert policy.grows_by_block
    sequences = [make_sequence(2) for _ in range(2)]
    for sequence in sequences:
        store(allocator, sequence, 2)
    for stored in (2, 4):
        for sequence in sequences:
            sequence.num_stored, before, free = stored, len(sequence.block_table), allocator.pool.num_free
            answer = allocator.allocate(sequence, 1)
            assert (answer is None) == (free == 0)
            grown = len(sequence.block_table) - before
            assert grown == free - allocator.pool.num_free == (1 if free else 0)
    assert allocator.pool.num_free == 0


class TakesTwo(Paged):
    """Inherits what Paged says of itself, and does not keep it."""

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take what two tokens more would need."""
        return super().allocate(sequence, num_tokens + 2)


class SaysSoAnew(TakesTwo):
    grows_by_block = True


def test_counting_blocks_is_believed_beside_the_other_words_only() -> None:
    class Counts:
        bulk = grows_by_block = counts_blocks = True

        def __init__(self, pool: BlockPool) -> None:
            self.pool = pool

        def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
            return None

        def free(self, sequence: Sequence) -> None:
            sequence.block_table = []

    class IsStable(Counts):
        stable_refusal = True

    class FreesInItsOwnWay(IsStable):
        def free(self, sequence: Sequence) -> None:
            sequence.block_table = []

    pool = BlockPool(1, 1)
    assert [counts_blocks(policy(pool)) for policy in (Counts, IsStable, FreesInItsOwnWay)] == [False, True, False]


def test_growing_by_blocks_is_not_inherited_past_an_allocate_of_one_s_own() -> None:
    assert grows_by_block(Paged(BlockPool(1, 1)))
    assert grows_by_block(Swapping(BlockPool(1, 1)))
    assert not grows_by_block(TakesTwo(BlockPool(1, 1)))
    assert grows_by_block(SaysSoAnew(BlockPool(1, 1)))


SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))


@pytest.mark.parametrize("maker", sorted(ALLOCATORS))
@given(num_blocks=st.integers(1, 60), block_size=st.integers(1, 4), sizes=SIZES, larger=SIZES)
def test_what_an_empty_pool_admits_it_admits_shorter_too(
    maker: str, num_blocks: int, block_size: int, sizes: tuple[int, int, int], larger: tuple[int, int, int]
) -> None:
    """The law of ``admits_smaller``, which every built-in policy says."""

    def is_admitted(prompt: int, estimate: int, output: int) -> bool:
        allocator = ALLOCATORS[maker](BlockPool(num_blocks, block_size), 60)
        assert says(allocator, "admits_smaller", "allocate")
        request = Request(0, 0, prompt, output, estimate=estimate)
        request.oracle = True
        return allocator.allocate(request.sequences[0], prompt) is not None

    if is_admitted(*map(max, sizes, larger)):
        assert is_admitted(*sizes)


# Forks


def test_a_paged_fork_copies_every_stored_block() -> None:
    allocator = Paged(BlockPool(6, 4))
    parent, child = make_request(7, num_sequences=2).sequences
    store(allocator, parent, 7)
    assert allocator.allocate(parent, 6) == []  # a third and a fourth block, not stored yet
    assert fork(allocator, parent, child) == [
        Copy(parent.block_table[0], child.block_table[0]),
        Copy(parent.block_table[1], child.block_table[1]),
    ]
    assert (len(parent.block_table), len(child.block_table)) == (4, 2)
    assert not set(parent.block_table) & set(child.block_table)
    third = make_sequence(1)
    assert allocator.fork(parent, third) is None
    assert (third.block_table, allocator.pool.num_free) == ([], 0)


@pytest.mark.parametrize("num_sequences", [2, 3, 4])
def test_k_sharers_of_a_partial_block_make_k_minus_1_copies(num_sequences: int) -> None:
    allocator = CopyOnWrite(BlockPool(16, 4))
    sequences = make_request(6, num_sequences=num_sequences).sequences
    parent = sequences[0]
    store(allocator, parent, 6)
    full, partial = parent.block_table
    for child in sequences[1:]:
        assert fork(allocator, parent, child) == []
    assert allocator.pool.num_held == 2
    plans = [store(allocator, sequence, 1) for sequence in sequences]
    targets = [sequence.block_table[1] for sequence in sequences]
    assert plans == [[Copy(partial, target)] for target in targets[:-1]] + [[]]
    assert targets[-1] == partial
    assert len(set(targets)) == num_sequences
    assert {sequence.block_table[0] for sequence in sequences} == {full}
    assert allocator.pool.ref_counts[full] == num_sequences
    # What is written next is its own: nothing more is copied, even where a new block is taken.
    assert [store(allocator, sequence, 2) for sequence in sequences] == [[]] * num_sequences


def test_a_full_shared_block_is_never_copied() -> None:
    allocator = CopyOnWrite(BlockPool(4, 4))
    parent, child = make_request(8, num_sequences=2).sequences
    store(allocator, parent, 8)
    fork(allocator, parent, child)
    assert store(allocator, parent, 1) == []
    assert store(allocator, child, 1) == []
    assert parent.block_table[:2] == child.block_table[:2]
    assert parent.block_table[2] != child.block_table[2]


def test_a_copy_that_finds_no_block_is_refused() -> None:
    allocator = CopyOnWrite(BlockPool(2, 4))
    parent, child = make_request(6, num_sequences=2).sequences
    store(allocator, parent, 6)
    fork(allocator, parent, child)
    tables = [list(parent.block_table), list(child.block_table)]
    counts = list(allocator.pool.ref_counts)
    assert allocator.allocate(child, 1) is None
    assert ([parent.block_table, child.block_table], allocator.pool.ref_counts) == (tables, counts)
    allocator.free(parent)
    assert store(allocator, child, 1) == []  # alone now: it writes in place


def test_a_fork_does_not_take_over_blocks_without_stored_tokens() -> None:
    allocator = CopyOnWrite(BlockPool(8, 4))
    parent, child = make_request(6, num_sequences=2).sequences
    store(allocator, parent, 6)
    allocator.allocate(parent, 9)
    fork(allocator, parent, child)
    assert len(parent.block_table) == 4
    assert child.block_table == parent.block_table[:2]


def test_ideal_is_copy_on_write_by_single_tokens() -> None:
    assert (Ideal.default_block_size, Ideal.default_watermark) == (1, 0.0)
    allocator = Ideal(BlockPool(9, 1))
    parent, child = make_request(6, num_sequences=2).sequences
    store(allocator, parent, 6)
    assert fork(allocator, parent, child) == []
    assert store(allocator, parent, 1) == store(allocator, child, 1) == []
    assert allocator.pool.num_held == 8


# Contiguous


def table_of(sequence: Sequence) -> object:
    """Return a table as what it is, a range."""
    return sequence.block_table


@pytest.mark.parametrize(
    ("reserve", "prompt", "output", "estimate", "asked"),
    [
        ("max", 7, 10, 10, 64),
        ("oracle", 7, 10, 1, 16),
        ("oracle", 7, 1, 30, 7),
        ("pow2", 7, 25, 25, 7 + 32),
        ("pow2", 7, 32, 32, 7 + 32),
        ("pow2", 7, 33, 33, 64),  # 7 + 64, capped at max_model_len
        ("pow2", 7, 20, 1, 7 + 1),
        ("pow2", 7, 20, 3, 7 + 4),
    ],
)
@pytest.mark.parametrize("placement", ["first_fit", "best_fit", "buddy"])
def test_what_is_reserved(placement: str, reserve: str, prompt: int, output: int, estimate: int, asked: int) -> None:
    allocator = Contiguous(BlockPool(128, 1), 64, reserve, placement)  # type: ignore[arg-type]
    sequence = make_sequence(prompt, output, estimate=estimate)
    assert allocator.allocate(sequence, prompt) == []
    assert sequence.num_asked == asked
    chunk = 1 << (asked - 1).bit_length() if placement == "buddy" else asked
    assert len(sequence.block_table) == allocator.pool.num_held == chunk


def test_an_oracle_needs_leave_to_read_the_future() -> None:
    allocator = Contiguous(BlockPool(8, 1), 8, "oracle")
    assert allocator.oracle
    assert not Contiguous(BlockPool(8, 1), 8, "pow2").oracle
    sequence = make_sequence(2, 2)
    sequence.request.oracle = False
    with pytest.raises(PluginError, match="oracle = True"):
        allocator.allocate(sequence, 2)


def test_a_reservation_that_is_outrun_doubles_in_place() -> None:
    allocator = Contiguous(BlockPool(32, 1), 32, "pow2", "first_fit")
    sequence = make_sequence(3, 20, estimate=2)
    store(allocator, sequence, 3)
    asked = []
    for _ in range(17):
        assert store(allocator, sequence, 1) == []
        asked.append(sequence.num_asked)
    assert asked == [5, 5, 7, 7, *[11] * 4, *[19] * 8, 32]
    assert table_of(sequence) == range(32)


def test_a_reservation_moves_when_its_neighbour_is_held() -> None:
    allocator = Contiguous(BlockPool(16, 1), 32, "pow2", "first_fit")
    sequence, neighbour = make_sequence(3, 20, estimate=1), make_sequence(2, 2, estimate=2)
    store(allocator, sequence, 3)
    store(allocator, neighbour, 2)
    store(allocator, sequence, 1)
    assert table_of(sequence) == range(4)
    assert table_of(neighbour) == range(4, 8)
    # Four stored tokens leave blocks 0 to 3 for a run of 3 + 2; both are held until it is found.
    assert store(allocator, sequence, 1) == [Copy(0, 8, 4)]
    assert table_of(sequence) == range(8, 13)
    assert allocator.pool.num_free == 16 - 4 - 5


def test_a_move_that_finds_no_run_is_refused_though_the_old_run_would_help() -> None:
    allocator = Contiguous(BlockPool(12, 1), 32, "pow2", "first_fit")
    sequence, neighbour = make_sequence(3, 20, estimate=1), make_sequence(1, 1, estimate=1)
    store(allocator, sequence, 3)
    store(allocator, neighbour, 1)
    for _ in range(2):
        store(allocator, sequence, 1)
    assert table_of(sequence) == range(6, 11)  # outran 4, and the neighbour sits at 4 and 5
    store(allocator, sequence, 0)
    sequence.num_stored = 5
    counts = list(allocator.pool.ref_counts)
    # 3 + 4 would fit into 6 to 12 only by taking over its own run, and there is one block behind it.
    assert allocator.allocate(sequence, 1) is None
    assert (table_of(sequence), sequence.num_asked) == (range(6, 11), 5)
    assert allocator.pool.ref_counts == counts


def test_buddy_growth_inside_its_chunk_takes_nothing() -> None:
    allocator = Contiguous(BlockPool(16, 1), 16, "pow2", "buddy")
    sequence = make_sequence(4, 20, estimate=1)
    store(allocator, sequence, 4)
    assert (sequence.num_asked, table_of(sequence)) == (5, range(8))
    store(allocator, sequence, 1)
    assert store(allocator, sequence, 1) == []
    assert (sequence.num_asked, table_of(sequence), allocator.pool.num_held) == (6, range(8), 8)


def test_a_chunk_that_the_watermark_forbids_is_not_taken() -> None:
    allocator = Contiguous(BlockPool(8, 1, watermark=4), 8, "pow2", "buddy")
    pool, sequence = allocator.pool, make_sequence(3, 2, estimate=2)
    pool.floor = 1  # five slots are asked for, and the chunk has eight
    assert allocator.allocate(sequence, 3) is None
    assert (pool.num_held, allocator.largest_free_run(), sequence.num_asked) == (0, 8, None)
    pool.floor = 0
    assert allocator.allocate(sequence, 3) == []


def test_contiguous_blocks_round_up() -> None:
    allocator = Contiguous(BlockPool(8, 4), 18, "max", "first_fit")
    sequence = make_sequence(3)
    store(allocator, sequence, 3)
    assert (sequence.num_asked, table_of(sequence)) == (18, range(5))


def test_a_contiguous_fork_reserves_its_own_run() -> None:
    allocator = Contiguous(BlockPool(16, 1), 8, "max", "first_fit")
    parent, child = make_request(3, num_sequences=2).sequences
    store(allocator, parent, 3)
    assert fork(allocator, parent, child) == [Copy(0, 8, 3)]
    third = make_sequence(3)
    assert allocator.fork(parent, third) is None
    assert list(third.block_table) == []
    allocator.free(parent)
    allocator.free(child)
    assert (allocator.pool.num_held, child.num_asked) == (0, None)
    assert allocator.largest_free_run() == 16


@pytest.mark.parametrize("options", [{"reserve": "half"}, {"placement": "worst_fit"}])
def test_an_unknown_option_is_refused_with_what_is_allowed(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="is unknown; allowed: "):
        Contiguous(BlockPool(8, 1), 8, **options)  # type: ignore[arg-type]


# Capabilities


@pytest.mark.parametrize(
    ("allocator", "capabilities"),
    [
        (Paged(BlockPool(1, 1)), {Forks}),
        (CopyOnWrite(BlockPool(1, 1)), {Forks, Prefixes}),
        (Ideal(BlockPool(1, 1)), {Forks, Prefixes}),
        (Swapping(BlockPool(1, 1)), {Forks, Prefixes, Swaps}),
        (Contiguous(BlockPool(1, 1), 1), {Forks, Swaps}),
    ],
)
def test_who_can_do_what(allocator: Allocator, capabilities: set[type]) -> None:
    assert {each for each in (Forks, Prefixes, Swaps) if isinstance(allocator, each)} == capabilities


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
def test_freeing_what_holds_nothing_changes_nothing(name: str) -> None:
    allocator = ALLOCATORS[name](BlockPool(4, 1), 4)
    sequence = make_sequence(1)
    allocator.free(sequence)
    assert (list(sequence.block_table), allocator.pool.num_free) == ([], 4)


# Swaps


def test_inv_12_swapping_keeps_sharing_and_moves_each_block_once() -> None:
    host = BlockPool(4, 4)
    allocator = Swapping(BlockPool(8, 4, host=host))
    parent, child = make_request(9, num_sequences=2).sequences
    store(allocator, parent, 9)
    fork(allocator, parent, child)
    store(allocator, child, 1)  # its third block is a copy now
    blocks = [*parent.block_table, child.block_table[2]]
    out = allocator.swap_out([parent, child])
    assert out is not None
    assert [op for op in out if isinstance(op, SwapOut)] == out
    assert [op.device for op in out if isinstance(op, SwapOut)] == blocks
    assert (list(parent.block_table), list(child.block_table)) == ([], [])
    assert parent.host_table[:2] == child.host_table[:2]
    assert (host.num_held, allocator.pool.num_held) == (4, 0)
    assert sorted(host.ref_counts) == [1, 1, 2, 2]

    back = allocator.swap_in([parent, child])
    assert back is not None
    assert sorted(op.host for op in back if isinstance(op, SwapIn)) == sorted(
        op.host for op in out if isinstance(op, SwapOut)
    )
    assert len(back) == 4
    assert parent.block_table[:2] == child.block_table[:2]
    assert parent.block_table[2] != child.block_table[2]
    assert (parent.host_table, child.host_table, host.num_held) == ([], [], 0)
    assert sorted(allocator.pool.ref_counts) == [0, 0, 0, 0, 1, 1, 2, 2]


def test_a_host_that_is_full_or_absent_refuses() -> None:
    for host in (None, BlockPool(1, 4)):
        allocator = Swapping(BlockPool(8, 4, host=host))
        sequence = make_sequence(5)
        store(allocator, sequence, 5)
        table = list(sequence.block_table)
        assert allocator.swap_out([sequence]) is None
        assert (sequence.block_table, sequence.host_table) == (table, [])
        assert host is None or host.num_held == 0


def test_swapping_in_without_room_changes_nothing() -> None:
    allocator = Swapping(BlockPool(2, 4, host=BlockPool(2, 4)))
    sequence, other = make_sequence(5), make_sequence(1)
    store(allocator, sequence, 5)
    assert allocator.swap_out([sequence]) is not None
    store(allocator, other, 1)
    home = list(sequence.host_table)
    assert allocator.swap_in([sequence]) is None
    assert (sequence.host_table, sequence.block_table, allocator.pool.num_free) == (home, [], 1)


def test_a_block_that_another_request_holds_stays_on_the_device() -> None:
    host = BlockPool(8, 4)
    allocator = Swapping(BlockPool(16, 4, host=host))
    first, second = make_sequence(11), make_sequence(10)
    for sequence in (first, second):
        sequence.request.prefix_group, sequence.request.prefix_tokens = 0, 8
    store(allocator, first, 11)
    assert allocator.match(second) == 8
    allocator.allocate(second, 10)
    second.num_stored = 10
    shared, own = second.block_table[:2], second.block_table[2:]
    assert shared == first.block_table[:2]
    out = allocator.swap_out([second])
    assert out is not None
    assert [(op.device, op.num_blocks) for op in out if isinstance(op, SwapOut)] == [(own[0], 1)]
    assert (list(second.block_table), second.resident_table, host.num_held) == ([], shared, 1)
    assert [allocator.pool.ref_counts[block] for block in shared] == [2, 2]
    allocator.free(first)
    assert [allocator.pool.ref_counts[block] for block in shared] == [1, 1]
    assert allocator.swap_in([second]) is not None
    assert second.block_table[:2] == shared
    assert (len(second.block_table), second.resident_table) == (3, [])


def test_a_prefix_is_shared_only_by_prompts_that_are_longer() -> None:
    allocator = CopyOnWrite(BlockPool(16, 1))
    long, exact, other = make_sequence(9), make_sequence(7), make_sequence(8)
    for sequence in (long, exact, other):
        sequence.request.prefix_group, sequence.request.prefix_tokens = 0, 7
    store(allocator, long, 9)
    matched = allocator.match(exact)
    assert matched < 7  # one token of a prompt is always computed
    allocator.allocate(exact, 7)
    exact.num_stored = 7
    allocator.free(long)
    matched = allocator.match(other)
    assert allocator.allocate(other, 8) == []
    holders = [block for sequence in (exact, other) for block in sequence.block_table]
    assert [allocator.pool.ref_counts[block] for block in range(16)] == [holders.count(block) for block in range(16)]
    assert len(other.block_table) == 8
    assert allocator.pool.num_held == 7 + 8 - matched


def test_only_stored_blocks_are_moved() -> None:
    allocator = Swapping(BlockPool(8, 4, host=BlockPool(8, 4)))
    sequence = make_sequence(5)
    store(allocator, sequence, 5)
    allocator.allocate(sequence, 20)
    out = allocator.swap_out([sequence])
    assert out is not None
    assert len(out) == 2
    assert allocator.pool.num_free == 8


def test_contiguous_swaps_the_stored_part_and_reserves_anew() -> None:
    host = BlockPool(8, 1)
    allocator = Contiguous(BlockPool(16, 1, host=host), 8, "max", "first_fit")
    first, second = make_sequence(3), make_sequence(2)
    store(allocator, first, 3)
    store(allocator, second, 2)
    assert allocator.swap_out([first]) == [SwapOut(0, 0, 3)]
    assert (host.num_held, allocator.pool.num_held) == (3, 8)
    assert allocator.swap_in([first]) == [SwapIn(0, 0, 3)]
    assert (host.num_held, list(first.block_table)) == (0, list(range(8)))


@pytest.mark.parametrize(("reserve", "placement"), list(itertools.product(["max", "pow2"], ["buddy", "first_fit"])))
def test_inv_4_a_swap_that_is_refused_changes_nothing(reserve: str, placement: str) -> None:
    host = BlockPool(4, 1)
    allocator = Contiguous(BlockPool(16, 1, host=host), 8, reserve, placement)  # type: ignore[arg-type]
    sequences = make_request(3, 5, num_sequences=2).sequences
    for sequence in sequences:
        store(allocator, sequence, 3)
    tables = [sequence.block_table for sequence in sequences]
    assert allocator.swap_out(sequences) is None  # six tokens, four slots
    assert [sequence.block_table for sequence in sequences] == tables
    assert host.num_held == 0
    assert allocator.swap_out(sequences[:1]) == [SwapOut(tables[0][0], 0, 3)]
    blocker = make_sequence(1, 8)
    while allocator.allocate(blocker, 1) is not None:
        blocker = make_sequence(1, 8)
    home, counts = sequences[0].host_table, list(allocator.pool.ref_counts)
    assert allocator.swap_in(sequences[:1]) is None
    assert (sequences[0].host_table, allocator.pool.ref_counts) == (home, counts)
