from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pagesim.blocks import BlockOps, Copy, Op, SwapIn, SwapOut
from pagesim_backends.moves import Batch, batches

NUM_BLOCKS = 10


def cut(*ops: Op) -> list[tuple[str, list[tuple[int, int]]]]:
    return [(batch.kind, [tuple(pair) for pair in batch.blocks.tolist()]) for batch in batches(BlockOps(ops))]


def test_copies_that_do_not_touch_each_other_are_one_batch() -> None:
    assert cut(Copy(0, 5), Copy(0, 6), Copy(1, 7, 2)) == [("copy", [(0, 5), (0, 6), (1, 7), (2, 8)])]


def test_a_target_that_was_a_source_splits_the_batch() -> None:
    assert cut(Copy(0, 8, 2), Copy(4, 0, 2)) == [("copy", [(0, 8), (1, 9)]), ("copy", [(4, 0), (5, 1)])]


def test_a_source_that_was_a_target_splits_the_batch() -> None:
    assert cut(Copy(0, 1), Copy(1, 2)) == [("copy", [(0, 1)]), ("copy", [(1, 2)])]


def test_a_target_that_was_a_target_splits_the_batch() -> None:
    assert cut(SwapOut(1, 0), SwapOut(2, 0)) == [("swap_out", [(1, 0)]), ("swap_out", [(2, 0)])]


def test_device_and_host_blocks_of_one_number_are_different_blocks() -> None:
    assert cut(SwapOut(1, 0), SwapOut(0, 1)) == [("swap_out", [(1, 0), (0, 1)])]


def test_a_run_of_blocks_is_swapped_block_by_block() -> None:
    assert cut(SwapOut(4, 1, 3)) == [("swap_out", [(4, 1), (5, 2), (6, 3)])]


def test_another_kind_begins_another_batch() -> None:
    kinds = [kind for kind, _ in cut(SwapOut(1, 0), Copy(3, 1), SwapIn(0, 3), SwapIn(1, 4))]
    assert kinds == ["swap_out", "copy", "swap_in"]


def test_a_copy_onto_itself_is_marked_or_dropped() -> None:
    (batch,) = batches(BlockOps([Copy(2, 3, 4)]))
    assert batch.overlaps
    assert batches(BlockOps([Copy(2, 2, 4)])) == []
    assert batches(BlockOps()) == []


op = st.one_of(
    st.builds(Copy, st.integers(0, 6), st.integers(0, 6), st.integers(1, 4)),
    st.builds(SwapOut, st.integers(0, 6), st.integers(0, 6), st.integers(1, 4)),
    st.builds(SwapIn, st.integers(0, 6), st.integers(0, 6), st.integers(1, 4)),
)


def in_order(ops: list[Op]) -> tuple[list[int], list[int]]:
    device, host = list(range(NUM_BLOCKS)), list(range(100, 100 + NUM_BLOCKS))
    for one in ops:
        if isinstance(one, Copy):
            device[one.destination : one.destination + one.num_blocks] = device[
                one.source : one.source + one.num_blocks
            ]
        elif isinstance(one, SwapOut):
            host[one.host : one.host + one.num_blocks] = device[one.device : one.device + one.num_blocks]
        else:
            device[one.device : one.device + one.num_blocks] = host[one.host : one.host + one.num_blocks]
    return device, host


def by_batches(found: list[Batch], *, backwards: bool) -> tuple[list[int], list[int]]:
    """Perform each batch in some order of its moves; only an overlapping one reads all before it writes."""
    device, host = list(range(NUM_BLOCKS)), list(range(100, 100 + NUM_BLOCKS))
    for batch in found:
        pairs = batch.blocks.tolist()[:: -1 if backwards else 1]
        before = list(device)
        for source, target in pairs:
            if batch.kind == "copy":
                device[target] = (before if batch.overlaps else device)[source]
            elif batch.kind == "swap_out":
                host[target] = device[source]
            else:
                device[target] = host[source]
    return device, host


@given(st.lists(op, max_size=12))
def test_batches_in_any_inner_order_mean_what_the_plan_means(ops: list[Op]) -> None:
    found = batches(BlockOps(ops))
    assert by_batches(found, backwards=False) == in_order(ops)
    assert by_batches(found, backwards=True) == in_order(ops)
