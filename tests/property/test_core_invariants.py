"""The numbered invariants over random runs, with every call of a policy checked and every token followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.beams import SeededBeams
from pagesim.blocks import BlockPool
from pagesim.record import STATUSES, Record
from pagesim.sequence import Request, SequenceStatus
from tests.support.checking import CheckingBackend, Watch
from tests.support.runs import SCHEDULERS, VICTIMS, Server

Options = dict[str, Any]
POLICIES: dict[str, tuple[type[Any], Options]] = {
    "paged": (Paged, {}),
    "copy_on_write": (CopyOnWrite, {}),
    "ideal": (Ideal, {}),
    "swapping": (Swapping, {}),
    **{
        f"{reserve}-{placement}": (Contiguous, {"reserve": reserve, "placement": placement})
        for reserve in ("max", "pow2", "oracle")
        for placement in ("buddy", "first_fit", "best_fit")
    },
}


class CheckedRun:
    """A random run of one policy, drawn from ``rng``."""

    def __init__(self, rng: Random, policy: str, scheduler: str, **attributes: bool) -> None:
        cls, options = POLICIES[policy]
        self.watch = Watch(type(cls.__name__, (cls,), attributes))
        has_prefixes = cls in (CopyOnWrite, Ideal, Swapping) and rng.random() < 0.3
        prefix_tokens = 7 if has_prefixes else 0
        self.requests = draw_requests(rng, prefix_tokens)
        longest = max(request.prompt_tokens + request.output_tokens for request in self.requests)
        widest = max(len(request.sequences) for request in self.requests)
        block_size = 1 if policy == "ideal" else rng.randint(1, 6)
        slots = rng.randint(longest, longest * (1 + widest) // rng.choice([1, 1, 2]) + longest)
        swaps = cls in (Swapping, Contiguous) and rng.random() < 0.8
        max_model_len = longest + rng.choice([0, 5])
        if has_prefixes:
            options = {"pin_prefixes": rng.random() < 0.4}
        self.server = Server(
            max(slots // block_size, 1),
            block_size,
            self._maker(options),
            scheduler,
            rng.choice(sorted(VICTIMS)),
            max_num_seqs=rng.choice([16, 4]),
            max_num_batched_tokens=rng.randint(8, 40) if scheduler == "chunked" else max_model_len * widest,
            max_model_len=max_model_len,
            watermark=rng.choice([0, 0, 1, 2]),
            host_blocks=rng.choice([5, 200, 200]) if swaps else 0,
            options={
                "preemption": rng.choice(["swap", "by_sequences"]) if swaps else "recompute",
                "admission": rng.choice(["after_swapped", "after_swapped", "after_preempted"]),
            },
        )
        self.backend = CheckingBackend(self.server.account, self.server.alloc, self.requests)
        self.server.account.prefixes = getattr(self.server.alloc, "prefixes", None)

    def _maker(self, options: Options) -> Callable[[BlockPool, int], Any]:
        policy = self.watch.policy

        def make(pool: BlockPool, max_model_len: int) -> Any:
            if "placement" in options:
                return policy(pool, max_model_len, **options)
            return policy(pool, **options)

        return make

    def run(self, *, horizon: int | None = None, fast_forward: bool = True) -> Record:
        """Run, and check what holds after any run."""
        recorder = self.server.run(self.requests, backend=self.backend, horizon=horizon, fast_forward=fast_forward)
        record = recorder.record(block_bytes=1)
        inv_5_causality(record)
        inv_7_one_bucket(record, self.requests)
        if horizon is None:
            inv_11_everything_is_free(self.server)
        return record


def draw_requests(rng: Random, prefix_tokens: int) -> list[Request]:
    """Return a few requests, of one or several sequences, whose prompts begin with one of two prefixes."""
    requests = []
    arrival = 0
    width = rng.choice([1, 1, 2, 3, 4])
    beams = SeededBeams(rng.randint(0, 99), 25.0) if width > 1 and rng.random() < 0.3 else None
    for number in range(rng.randint(2, 7)):
        arrival += rng.choice([0, 0, 0, 3, 9, 20])
        output = rng.choice([1, 2, *[rng.randint(3, 20)] * 5])
        request = Request(
            number, arrival, prefix_tokens + rng.randint(1, 20), output, width, rng.choice([output, 1, 5])
        )
        request.beams = beams
        if prefix_tokens:
            request.prefix_group, request.prefix_tokens = rng.choice([0, 1]), prefix_tokens
        if width > 1 and beams is None and rng.random() < 0.4:  # lengths of their own, the first one longest
            for sequence in request.sequences[1:]:
                sequence.num_output = rng.randint(1, output)
        requests.append(request)
    return requests


def inv_5_causality(record: Record) -> None:
    """Check the order of each request's instants."""
    finished = record.column("status") == STATUSES.index("finished")
    instants = [record.column(name)[finished] for name in ("arrival", "admitted_at", "first_token_at", "last_token_at")]
    for before, after in pairwise(instants):
        assert (before <= after).all()
    assert (instants[1] < instants[2]).all()


def inv_7_one_bucket(record: Record, requests: list[Request]) -> None:
    """Check that each request has one row, and that the buckets agree with the requests."""
    assert record.column("request").tolist() == [request.id for request in requests]
    ends = {SequenceStatus.FINISHED: "finished", SequenceStatus.REFUSED: "refused"}
    buckets = [STATUSES[status] for status in record.column("status")]
    assert buckets == [ends.get(request.status, "unfinished") for request in requests]
    assert record.end.counters["finished"] == buckets.count("finished")
    assert record.end.counters["refused"] == buckets.count("refused") == len(record.refusals)


def inv_11_everything_is_free(server: Server) -> None:
    """Check that nothing is left: blocks, host blocks, seats, queues, the account."""
    pool, account, scheduler = server.pool, server.account, server.sched
    assert pool.num_held == 0
    assert pool.host is None or pool.host.num_held == 0
    assert (scheduler.num_seats, len(scheduler.running), len(scheduler.waiting), len(scheduler.swapped)) == (0, 0, 0, 0)
    left = (account.live, account.useful, account.internal, account.external, account.references)
    assert left == (0, 0, 0, 0, 0)
    if hasattr(server.alloc, "largest_free_run"):
        assert server.alloc.largest_free_run() == server.make_allocator().largest_free_run()  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("policy", sorted(POLICIES))
@settings(max_examples=16)
@given(seed=st.integers(0, 2**32))
def test_inv_1_2_3_4_5_7_8_11_12_hold_in_any_run(policy: str, scheduler: str, seed: int) -> None:
    CheckedRun(Random(seed), policy, scheduler).run()


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    policy=st.sampled_from(sorted(POLICIES)),
    scheduler=st.sampled_from(sorted(SCHEDULERS)),
    horizon=st.integers(1, 400),
)
def test_inv_7_every_request_has_one_bucket_at_any_horizon(
    policy: str, scheduler: str, seed: int, horizon: int
) -> None:
    record = CheckedRun(Random(seed), policy, scheduler).run(horizon=horizon)
    assert record.end.time == horizon


def everything(record: Record) -> Any:
    """Return all that a run leaves behind, as plain values."""
    return (
        record.requests.tolist(),
        record.refusals,
        record.end,
        record.peak_running,
        record.edges,
        record.gaps.counts,
        record.gaps.maximum,
    )


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32), policy=st.sampled_from(sorted(POLICIES)), scheduler=st.sampled_from(sorted(SCHEDULERS))
)
def test_inv_6_and_inv_10_again_and_step_by_step_is_the_same(policy: str, scheduler: str, seed: int) -> None:
    """Groups, beams, swaps and prefixes too; for single sequences the naive engine says what the same is."""
    first, again, slow = (CheckedRun(Random(seed), policy, scheduler) for _ in range(3))
    expected = everything(first.run())
    assert everything(again.run()) == expected
    assert everything(slow.run(fast_forward=False)) == expected


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    policy=st.sampled_from(sorted(POLICIES)),
    scheduler=st.sampled_from(sorted(SCHEDULERS)),
    slow=st.sampled_from([{"bulk": False}, {"stable_refusal": False}, {"bulk": False, "stable_refusal": False}]),
)
def test_what_a_policy_says_about_itself_only_makes_it_faster(
    policy: str, scheduler: str, seed: int, slow: dict[str, bool]
) -> None:
    """A policy that is asked for every token, and again in every step, gives the same run."""
    fast, asked = CheckedRun(Random(seed), policy, scheduler), CheckedRun(Random(seed), policy, scheduler, **slow)
    expected, found = everything(fast.run()), everything(asked.run())
    for lookups in ("lookups_first", "lookups_retry", "lookups_preempted"):
        for snapshot in (expected[2], found[2]):
            del snapshot.counters[lookups]
    assert found == expected


def test_the_random_runs_go_where_it_is_tight() -> None:
    """What the checks above are worth: the runs meet every kind of refusal, and share and move blocks."""
    refusals: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for seed in range(60):
        for policy in ("swapping", "paged", "pow2-buddy"):
            run = CheckedRun(Random(seed), policy, "chunked")
            run.run()
            refusals += run.watch.num_refusals
            happened["steps with sharing"] += run.backend.num_shared_steps
            for name in ("preemptions_recompute", "preemptions_swap", "copied_blocks", "matched_tokens", "refused"):
                happened[name] += getattr(run.server.journal, name)
    assert set(refusals) == {"allocate", "fork", "swap_in", "swap_out"}
    assert {name for name, count in happened.items() if count > 20} == set(happened)
