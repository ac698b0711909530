from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagesim_backends.cuda.estimate import Timing, estimate
from pagesim_backends.cuda.kernels import CHUNK, HEAD_DIMS, Form, decode_shared_bytes
from pagesim_backends.cuda.plan import MAX_SPLITS, WORK_ITEM, DecodePlan, Heads, split_evenly
from pagesim_backends.cuda.planner import MOST_OF_A_FORM, NUM_TRIED, Planner, cut_tail

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=12)


def check(plan: DecodePlan, lengths: list[int], heads: Heads) -> None:
    """Every query head of every sequence meets every token once, and splits find each other."""
    pieces = defaultdict(list)
    for item in plan.items:
        for head in range(int(item["num_heads"])):
            query_head = int(item["kv_head"]) * heads.group + int(item["first_head"]) + head
            pieces[int(item["sequence"]), query_head].append(item)
    assert len(pieces) == len(lengths) * heads.num_kv_heads * heads.group
    slots = defaultdict(set)
    for (sequence, _), items in pieces.items():
        items.sort(key=lambda item: int(item["begin"]))
        assert [int(item["split"]) for item in items] == list(range(len(items)))
        assert {int(item["num_splits"]) for item in items} == {len(items)}
        assert len({int(item["slot"]) - int(item["split"]) for item in items}) == 1
        edges = [int(items[0]["begin"]), *(int(item["end"]) for item in items)]
        assert edges[0] == 0
        assert edges[-1] == lengths[sequence]
        assert [int(item["begin"]) for item in items] == edges[:-1]
        assert all(edge % CHUNK == 0 for edge in edges[:-1])
        assert all(int(item["begin"]) < int(item["end"]) for item in items)
        if len(items) > 1:
            for item in items:
                owner = (sequence, int(item["kv_head"]), int(item["first_head"]))
                slots[int(item["slot"])].add((*owner, int(item["split"])))
    assert all(len(owners) == 1 for owners in slots.values())
    assert not slots or max(slots) < plan.num_slots


@given(LENGTHS, st.sampled_from([(8, 8, 64), (32, 8, 128), (36, 3, 256), (16, 1, 256)]), st.data())
def test_every_head_meets_every_token_once(
    lengths: list[int], model: tuple[int, int, int], data: st.DataObject
) -> None:
    heads = Heads.of(*model)
    splits = data.draw(st.lists(st.integers(1, 9), min_size=len(lengths), max_size=len(lengths)))
    tables = np.arange(len(lengths)) * 7
    plan = split_evenly(np.array(lengths), tables, heads, Form(4, 3), np.array(splits))
    check(plan, lengths, heads)
    sizes = (plan.items["end"] - plan.items["begin"]) // CHUNK
    assert all(sizes[:-1] + 1 >= sizes[1:])  # the longest first; a last chunk may be partial
    assert set(plan.items["table"]) == set(tables.tolist())


@given(LENGTHS, st.sampled_from([(8, 8, 64), (32, 8, 128), (32, 2, 256)]))
def test_the_planner_covers_every_batch(lengths: list[int], model: tuple[int, int, int]) -> None:
    heads = Heads.of(*model)
    planner = Planner(heads, model[2], 132)
    plan = planner.plan(np.array(lengths), np.zeros(len(lengths), np.int64))
    check(plan, lengths, heads)
    assert plan.form in planner.forms
    assert plan.max_splits <= MAX_SPLITS


def test_one_long_sequence_is_spread_over_the_device_and_a_full_batch_is_not_split() -> None:
    planner = Planner(Heads.of(32, 8, 128), 128, 132)
    alone = planner.plan(np.array([131_072]), np.zeros(1, np.int64))
    assert 100 <= len(alone.items) <= 400
    assert alone.max_splits > 10
    full = planner.plan(np.full(64, 4096), np.zeros(64, np.int64))
    assert (len(full.items), full.max_splits, full.num_slots) == (512, 1, 0)


def test_the_longest_of_a_ragged_batch_is_split_more_often() -> None:
    planner = Planner(Heads.of(32, 8, 128), 128, 132)
    plan = planner.plan(np.array([8000, *[500] * 30]), np.zeros(31, np.int64))
    splits = {int(item["sequence"]): int(item["num_splits"]) for item in plan.items}
    assert splits[0] > 4 * max(splits[sequence] for sequence in range(1, 31))


def test_a_similar_batch_shares_the_choice() -> None:
    planner = Planner(Heads.of(32, 8, 128), 128, 132)
    for length in range(1000, 1016):
        planner.plan(np.full(40, length), np.zeros(40, np.int64))
    assert len(planner._choices) <= 2


def test_more_splits_than_chunks_are_not_made() -> None:
    plan = split_evenly(np.array([17, 5]), np.zeros(2, np.int64), Heads.of(2, 2, 64), Form(4, 3), np.array([9, 9]))
    assert sorted(plan.items["num_splits"].tolist()) == [1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_forms_fit_the_shared_memory_of_the_device(head_dim: int) -> None:
    heads = Heads.of(16, 1, head_dim)
    for limit in (99, 163, 227):
        planner = Planner(heads, head_dim, 100, max_shared_bytes=limit * 1024)
        assert planner.forms
        for form in planner.forms:
            assert decode_shared_bytes(form.num_warps, heads.per_item, head_dim, MAX_SPLITS) <= limit * 1024


def test_a_work_item_is_32_bytes() -> None:
    assert WORK_ITEM.itemsize == 32


def test_the_fastest_of_the_plans_that_are_tried_is_kept() -> None:
    planner = Planner(Heads.of(32, 8, 128), 128, 132)
    lengths, tables = np.full(20, 900), np.zeros(20, np.int64)
    tried: list[DecodePlan] = []

    def trial(plan: DecodePlan) -> float:
        tried.append(plan)
        return 1.0 if plan.form == Form(8, 1) and plan.max_splits > 1 else 2.0 + 0.001 * len(tried)

    chosen = planner.plan(lengths, tables, trial)
    assert (chosen.form, chosen.max_splits > 1) == (Form(8, 1), True)
    assert len({(plan.form, plan.items.tobytes()) for plan in tried}) == NUM_TRIED
    assert max(Counter(plan.form for plan in tried[:NUM_TRIED]).values()) == MOST_OF_A_FORM
    count = len(tried)
    again = planner.plan(lengths + 3, tables, trial)
    assert (again.form, len(tried)) == (Form(8, 1), count)  # a batch alike is not tried again
    check(again, (lengths + 3).tolist(), planner.heads)


def test_the_last_items_are_cut_finer() -> None:
    chunks, splits = np.array([64, 10, 20, 6]), np.array([2, 1, 1, 1])
    assert cut_tail(chunks, splits, 0.1, 4).tolist() == [2, 1, 1, 4]
    assert cut_tail(chunks, splits, 0.2, 8).tolist() == [2, 8, 1, 6]
    assert cut_tail(chunks, splits, 0.0, 4).tolist() == [2, 1, 1, 4]  # one sequence at least
    assert splits.tolist() == [2, 1, 1, 1]


def test_an_estimate_is_at_least_the_time_to_read_and_prefers_even_shares() -> None:
    heads, timing = Heads.of(32, 8, 128), Timing()
    chunks = np.full(16, 256)
    whole, split = (estimate(chunks, np.full(16, count), Form(12, 1), heads, 128, 132, timing) for count in (1, 16))
    read = 16 * 4096 * 8 * 128 * 4 / timing.bandwidth
    assert read < whole < split
    uneven = estimate(np.array([4096 - 15, *[1] * 15]), np.ones(16, np.int64), Form(12, 1), heads, 128, 132, timing)
    assert uneven > 5 * whole
