"""Who runs in the next iteration, who waits, and who has to go."""

from __future__ import annotations

from typing import Any

import pytest

from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.paged import Paged
from pagesim.backend import FakeBackend, Step
from pagesim.blocks import BlockOps, BlockPool
from pagesim.errors import InvariantError, PluginError
from pagesim.record import STATUSES, Record
from pagesim.schedulers.never import Never
from pagesim.schedulers.victims import FewestOutputs, LeastComputed, LongestRemaining, Youngest
from pagesim.sequence import Branch, Request, Sequence, SequenceStatus
from tests.support.contents import ContentBackend
from tests.support.runs import SCHEDULERS, Server

Plan = tuple[list[tuple[int, int]], list[int]]


def plan(step: Step) -> Plan:
    """Return (prefills as (request, tokens), requests that decode)."""
    return (
        [(chunk.sequence.request.id, chunk.num_tokens) for chunk in step.prefills],
        [sequence.request.id for sequence in step.decodes],
    )


def drive(server: Server, requests: list[Request], num_steps: int) -> list[Plan]:
    """Add requests as their tick (one step is one tick) comes, and return the plans of the first steps."""
    waiting = list(requests)
    plans = []
    for now in range(num_steps):
        while waiting and waiting[0].arrival <= now:
            waiting[0].oracle = True
            server.sched.add(waiting.pop(0))
        step = server.sched.schedule(now)
        plans.append(plan(step))
        server.sched.commit(step, now + 1)
    return plans


def statuses(record: Record) -> list[str]:
    """Return the bucket of each request."""
    return [STATUSES[status] for status in record.column("status")]


# The order of each policy


def test_mixed_puts_whole_prompts_beside_decodes() -> None:
    server = Server(64, 1, scheduler="mixed", max_num_batched_tokens=10)
    requests = [Request(0, 0, 4, 4), Request(1, 1, 7, 3), Request(2, 1, 3, 3), Request(3, 1, 2, 2)]
    assert drive(server, requests, 4) == [
        ([(0, 4)], []),
        ([(1, 7)], [0]),  # 1 + 7 leave 2, too little for the next prompt, and nobody overtakes it
        ([(2, 3), (3, 2)], [0, 1]),
        ([], [0, 1, 2, 3]),
    ]


def test_chunked_fills_the_budget_and_goes_on_with_the_oldest_prompt() -> None:
    server = Server(64, 1, scheduler="chunked", max_num_batched_tokens=5)
    requests = [Request(0, 0, 4, 4), Request(1, 0, 7, 3), Request(2, 0, 3, 3)]
    assert drive(server, requests, 5) == [
        ([(0, 4), (1, 1)], []),
        ([(1, 4)], [0]),
        ([(1, 2), (2, 2)], [0]),
        ([(2, 1)], [0, 1]),
        ([], [1, 2]),
    ]


def test_chunked_allocates_the_whole_prompt_at_admission() -> None:
    server = Server(16, 1, scheduler="chunked", max_num_batched_tokens=4)
    server.sched.add(Request(0, 0, 10, 2))
    server.sched.add(Request(1, 0, 7, 2))
    assert plan(server.sched.schedule(0)) == ([(0, 4)], [])
    assert server.pool.num_held == 10
    assert (server.account.live, server.account.useful) == (0, 10)


def test_prefill_first_never_mixes() -> None:
    server = Server(64, 1, scheduler="prefill_first", max_num_batched_tokens=8)
    requests = [Request(0, 0, 4, 3), Request(1, 1, 8, 2), Request(2, 1, 3, 3)]
    assert drive(server, requests, 5) == [
        ([(0, 4)], []),
        ([(1, 8)], []),
        ([(2, 3)], []),
        ([], [0, 1, 2]),
        ([], [0, 2]),
    ]


def test_static_admits_nobody_until_the_batch_has_ended() -> None:
    server = Server(64, 1, scheduler="static", max_num_seqs=2)
    requests = [Request(0, 0, 4, 3), Request(1, 0, 2, 2), Request(2, 0, 3, 2), Request(3, 1, 1, 1)]
    assert drive(server, requests, 5) == [
        ([(0, 4), (1, 2)], []),
        ([], [0, 1]),
        ([], [0]),
        ([(2, 3), (3, 1)], []),
        ([], [2]),
    ]


def test_static_pads_and_keeps_finished_memory_as_internal() -> None:
    server = Server(64, 1, scheduler="static")
    for request in (Request(0, 0, 4, 3), Request(1, 0, 2, 2)):
        server.sched.add(request)
    paddings, internals, held = [], [], []
    for now in range(3):
        step = server.sched.schedule(now)
        paddings.append(step.padding_tokens)
        internals.append(server.account.internal)
        held.append(server.pool.num_held)
        server.sched.commit(step, now + 1)
    assert paddings == [2, 0, 1]  # the short prompt, nothing, the sequence that has ended
    assert internals == [0, 0, 3]
    assert held == [6, 8, 9]
    assert server.pool.num_held == 0


# Admission


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_seats_limit_a_batch(scheduler: str) -> None:
    server = Server(64, 1, scheduler=scheduler, max_num_seqs=2)
    for number in range(3):
        server.sched.add(Request(number, 0, 2, 2))
    assert plan(server.sched.schedule(0))[0] == [(0, 2), (1, 2)]
    assert (server.sched.held, server.sched.refused_by_allocator, server.sched.num_seats) == ("sequences", False, 2)


@pytest.mark.parametrize(
    ("held", "by_allocator", "options"),
    [
        ("load", False, {}),
        ("sequences", False, {"max_num_seqs": 1}),
        ("tokens", False, {"max_num_batched_tokens": 4}),
        ("memory", True, {"num_blocks": 6}),
    ],
)
def test_what_holds_admission_back(held: str, by_allocator: bool, options: dict[str, Any]) -> None:
    server = Server(**{"num_blocks": 64, "block_size": 1, **options})
    server.sched.add(Request(0, 0, 4, 2))
    server.sched.add(Request(1, 0, 4, 2))
    server.sched.schedule(0)
    assert (server.sched.held, server.sched.refused_by_allocator) == (held, by_allocator)


@pytest.mark.parametrize(("prompt", "is_admitted"), [(3, True), (4, False)])
def test_the_watermark_is_left_free_by_an_admission(prompt: int, is_admitted: bool) -> None:
    server = Server(8, 1, watermark=2)
    server.sched.add(Request(0, 0, 3, 4))
    server.sched.add(Request(1, 0, prompt, 2))
    assert len(server.sched.schedule(0).prefills) == 1 + is_admitted


def test_the_watermark_is_waived_for_a_request_alone_and_ignored_by_appends() -> None:
    server = Server(8, 1, watermark=6)
    record = server.run([Request(0, 0, 5, 4)]).record(1)
    assert statuses(record) == ["finished"]
    assert record.end.time == 4 * 1000  # one prompt, three decodes; at last all eight blocks


def test_a_refusal_is_not_repeated_while_nothing_becomes_free() -> None:
    server = Server(8, 1)
    server.sched.add(Request(0, 0, 4, 3))
    server.sched.add(Request(1, 0, 5, 3))
    for now in range(4):
        server.sched.commit(server.sched.schedule(now), now + 1)
    # Asked at the start and once more when the first had gone.
    assert (server.journal.lookups_first, server.journal.lookups_retry, server.journal.finished) == (2, 1, 1)


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_a_request_that_never_fits_does_not_hold_up_the_next(scheduler: str) -> None:
    server = Server(4, 4, scheduler=scheduler)
    record = server.run([Request(0, 0, 17, 2), Request(1, 0, 2, 2)]).record(1)
    assert statuses(record) == ["refused", "finished"]
    assert record.refusals == {0: "never fits: an empty pool does not admit 17 tokens"}


def test_never_is_asked_without_the_watermark() -> None:
    server = Server(4, 4, watermark=3)
    assert statuses(server.run([Request(0, 0, 14, 2)]).record(1)) == ["finished"]


def test_a_request_without_enough_seats_is_refused() -> None:
    server = Server(64, 1, max_num_seqs=2)
    record = server.run([Request(0, 0, 2, 2, 3), Request(1, 0, 2, 2, 2)]).record(1)
    assert statuses(record) == ["refused", "finished"]
    assert record.refusals == {0: "needs 3 seats of max_num_seqs 2"}


# Preemption


def test_the_last_preempted_waits_in_front() -> None:
    server = Server(9, 1)
    requests = [Request(number, 0, 3, 9) for number in range(3)]
    # In the second step the third gives its blocks to both, in the third the second gives way itself.
    assert drive(server, requests, 3) == [([(0, 3), (1, 3), (2, 3)], []), ([], [0, 1]), ([], [0])]
    assert [request.id for request in server.sched.waiting] == [1, 2]
    assert [request.num_preemptions_recompute for request in requests] == [0, 1, 1]


def test_nothing_is_admitted_in_a_step_that_preempts() -> None:
    server = Server(8, 1)
    requests = [Request(0, 0, 3, 9), Request(1, 0, 5, 9), Request(2, 0, 1, 1)]
    plans = drive(server, requests, 3)
    assert plans == [([(0, 3), (1, 5)], []), ([], [0]), ([], [0])]
    assert (server.sched.held, server.sched.refused_by_allocator) == ("memory", True)
    assert requests[1].num_preemptions_recompute == 1


def test_a_preempted_request_prefills_its_prompt_and_outputs_as_one() -> None:
    server = Server(10, 1, scheduler="mixed")
    requests = [Request(0, 0, 3, 4), Request(1, 0, 4, 6)]
    assert drive(server, requests, 5) == [
        ([(0, 3), (1, 4)], []),
        ([], [0, 1]),
        ([], [0]),  # nine are held; the first takes the tenth, the second gives way with five stored
        ([], [0]),
        ([(1, 6)], []),
    ]
    assert (requests[1].num_recomputed, server.journal.recomputed_tokens) == (5, 5)
    assert requests[1].sequences[0].num_generated == 3


def test_a_request_that_outgrows_a_pool_alone_is_refused_and_its_tokens_are_wasted() -> None:
    server = Server(4, 1)
    record = server.run([Request(0, 0, 2, 9)]).record(1)
    assert record.refusals == {0: "outgrew the pool: alone in it, it cannot grow"}
    assert record.end.counters["output_tokens"] == 3
    assert (server.pool.num_held, server.sched.num_seats, server.account.live) == (0, 0, 0)


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("waits_for", ["sequences", "memory"])
def test_inv_8_the_next_one_runs_when_one_has_outgrown_the_pool(scheduler: str, waits_for: str) -> None:
    seats = 1 if waits_for == "sequences" else 8
    server = Server(4, 1, scheduler=scheduler, max_num_seqs=seats)
    record = server.run([Request(0, 0, 4, 9), Request(1, 0, 2, 2)]).record(1)
    assert statuses(record) == ["refused", "finished"]


def test_inv_8_a_batch_whose_last_one_gives_way_has_ended() -> None:
    """Of a static batch one has finished and keeps its memory; the other cannot grow, and must not wait for ever."""
    server = Server(6, 1, scheduler="static")
    record = server.run([Request(0, 0, 2, 5), Request(1, 0, 3, 1)]).record(1)
    assert statuses(record) == ["finished", "finished"]
    assert record.column("preemptions_recompute").tolist() == [1, 0]


def test_inv_8_a_victim_returns_when_its_preemptor_is_refused_in_the_same_step() -> None:
    """A run of 1 + 8 cannot double in a pool of 16, even after the other one has gone."""
    server, backend = Server(16, 1, "pow2-first_fit", max_model_len=64), FakeBackend(1)
    requests = [Request(0, 0, 1, 30, estimate=8), Request(1, 8, 3, 3, estimate=4)]
    record = server.run(requests, backend=backend).record(1)
    assert statuses(record) == ["refused", "finished"]
    assert record.column("preemptions_recompute").tolist() == [0, 1]
    assert [(list(prefills), list(decodes)) for prefills, decodes, _ in backend.steps[8:]] == [
        ([(1, 3)], [0]),
        ([(1, 4)], []),
        ([], [1]),
    ]


@pytest.mark.parametrize(("rule", "admitted_at"), [("after_swapped", 6), ("after_preempted", 8)])
def test_admission_may_wait_until_preempted_requests_have_completed(rule: str, admitted_at: int) -> None:
    server = Server(8, 1, options={"admission": rule})
    requests = [Request(0, 0, 3, 6), Request(1, 0, 5, 3), Request(2, 2, 1, 2)]
    server.run(requests, backend=FakeBackend(1))
    assert requests[1].num_preemptions_recompute == 1
    assert [requests[number].finished_at for number in (0, 1)] == [6, 8]
    assert requests[2].admitted_at == admitted_at


# Victims


def candidates() -> list[Request]:
    """Return three requests in their order of admission, which is not that of their arrival."""
    requests = [Request(0, 5, 10, 20), Request(1, 1, 2, 30), Request(2, 3, 6, 8)]
    for request, (stored, generated) in zip(requests, [(12, 3), (9, 8), (9, 3)], strict=True):
        request.oracle = True
        request.sequences[0].num_stored = stored
        request.sequences[0].num_generated = generated
    return requests


def test_victims() -> None:
    requests = candidates()
    assert Youngest().choose(requests).id == 0
    assert LeastComputed().choose(requests).id == 2  # nine stored, as the other, and a later arrival
    assert FewestOutputs().choose(requests).id == 0  # three generated, as the other, and a later arrival
    assert LongestRemaining().choose(requests).id == 1
    assert LongestRemaining.oracle


def test_of_arrivals_at_one_instant_the_later_in_the_file_goes() -> None:
    requests = [Request(number, 7, 3, 3) for number in (4, 6, 5)]
    for request in requests:
        request.oracle = True
    for victim in (Youngest(), LeastComputed(), FewestOutputs(), LongestRemaining()):
        assert victim.choose(requests).id == 6


def test_the_longest_remaining_needs_leave() -> None:
    with pytest.raises(PluginError):
        LongestRemaining().choose([Request(0, 0, 1, 1)])


def test_requests_grow_in_the_order_of_their_admission() -> None:
    server = Server(4, 4)
    first, second = Request(7, 0, 4, 9), Request(3, 0, 4, 9)
    for request in (first, second):
        server.sched.add(request)
    server.sched.commit(server.sched.schedule(0), 1)
    server.sched.schedule(1)
    assert [request.sequences[0].block_table for request in (first, second)] == [[0, 2], [1, 3]]


def test_victims_come_from_those_not_yet_granted() -> None:
    """The oldest has had its token; the second cannot grow and would pick it, but may only give way itself."""
    server = Server(7, 1, victim="longest_remaining")
    requests = [Request(0, 0, 3, 30), Request(1, 0, 3, 5)]
    drive(server, requests, 2)
    assert [request.num_preemptions_recompute for request in requests] == [0, 1]


# Several sequences


def test_parallel_samples_prefill_once_and_hold_a_seat_each() -> None:
    server = Server(64, 4, "copy_on_write", max_num_seqs=3)
    request, other = Request(0, 0, 6, 3, 3), Request(1, 0, 2, 2)
    server.sched.add(request)
    server.sched.add(other)
    step = server.sched.schedule(0)
    assert (plan(step), server.sched.num_seats, server.sched.held) == (([(0, 6)], []), 3, "sequences")
    server.sched.commit(step, 10)
    assert [sequence.num_generated for sequence in request.sequences] == [1, 1, 1]
    assert server.journal.output_tokens == 3
    step = server.sched.schedule(10)
    assert (plan(step), len(step.ops), server.pool.num_held) == (([], [0, 0, 0]), 2, 4)
    server.sched.commit(step, 20)
    server.sched.commit(server.sched.schedule(20), 30)
    assert (request.status, server.sched.num_seats, server.pool.num_held) == (SequenceStatus.FINISHED, 0, 0)


def test_a_group_is_recomputed_as_prompt_fork_and_outputs() -> None:
    server = Server(8, 2, "copy_on_write", scheduler="mixed")
    requests = [Request(0, 0, 3, 5), Request(1, 0, 3, 6, 2)]
    assert drive(server, requests, 8) == [
        ([(0, 3), (1, 3)], []),
        ([], [0, 1, 1]),
        ([], [0, 1, 1]),
        ([], [0, 1, 1]),
        ([], [0]),  # the group has four outputs each, of which three are stored
        ([(1, 3)], []),
        ([(1, 4), (1, 4)], []),
        ([], [1, 1]),
    ]
    assert requests[1].num_recomputed == 3 + 2 * 3
    assert requests[1].status is SequenceStatus.FINISHED


def test_without_forks_each_sequence_prefills_its_own_prompt() -> None:
    class Plain:
        def __init__(self, pool: BlockPool) -> None:
            self.paged = Paged(pool)
            self.pool = pool

        def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
            return self.paged.allocate(sequence, num_tokens)

        def free(self, sequence: Sequence) -> None:
            self.paged.free(sequence)

    server = Server(64, 4, lambda pool, _: Plain(pool))
    server.sched.add(Request(0, 0, 6, 2, 2))
    assert plan(server.sched.schedule(0)) == ([(0, 6), (0, 6)], [])


# Swapping


def swapping_server(num_blocks: int, host_blocks: int, mode: str = "swap") -> Server:
    """Return a server whose preempted requests move to the host."""
    return Server(num_blocks, 1, "swapping", host_blocks=host_blocks, options={"preemption": mode})


def test_a_swapped_request_goes_on_where_it_was() -> None:
    server = swapping_server(10, 8)
    requests = [Request(0, 0, 3, 4), Request(1, 0, 4, 6)]
    record = server.run(requests, backend=ContentBackend(1)).record(1)
    assert statuses(record) == ["finished", "finished"]
    assert record.column("preemptions_swap").tolist() == [0, 1]
    assert record.column("recomputed_tokens").tolist() == [0, 0]
    assert (server.journal.swapped_out_blocks, server.journal.swapped_in_blocks) == (5, 5)


@pytest.mark.parametrize(("host_blocks", "mode"), [(4, "swap"), (8, "recompute"), (8, "by_sequences")])
def test_when_the_host_is_full_or_not_meant_it_is_recomputed(host_blocks: int, mode: str) -> None:
    server = swapping_server(10, host_blocks, mode)
    record = server.run([Request(0, 0, 3, 4), Request(1, 0, 4, 6)], backend=ContentBackend(1)).record(1)
    assert (server.journal.preemptions_swap, server.journal.preemptions_recompute) == (0, 1)
    assert record.column("recomputed_tokens").tolist() == [0, 5]


def test_by_sequences_swaps_groups() -> None:
    server = swapping_server(14, 20, "by_sequences")
    server.run([Request(0, 0, 3, 8), Request(1, 0, 4, 6, 2)], backend=ContentBackend(1))
    assert (server.journal.preemptions_swap, server.journal.preemptions_recompute) == (1, 0)


def test_nobody_is_admitted_while_somebody_is_swapped() -> None:
    server = swapping_server(10, 8)
    requests = [Request(0, 0, 3, 6), Request(1, 0, 4, 6), Request(2, 2, 1, 1)]
    server.run(requests, backend=FakeBackend(1))
    assert requests[1].num_preemptions_swap == 1
    assert requests[2].admitted_at is not None
    assert requests[0].finished_at is not None
    assert requests[2].admitted_at >= requests[0].finished_at


# Broken policies


def test_inv_2_a_policy_that_promises_room_it_has_not_is_named() -> None:
    class Liar(Paged):
        def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
            return BlockOps()

    server = Server(8, 4, lambda pool, _: Liar(pool))
    server.sched.add(Request(0, 0, 6, 2))
    with pytest.raises(InvariantError, match=r"INV-2: Liar\.allocate.*covers 0 of 6 tokens"):
        server.sched.schedule(0)


def test_inv_11_a_policy_that_keeps_blocks_is_found_out() -> None:
    class Hoarder(Paged):
        def free(self, sequence: Sequence) -> None:
            sequence.block_table = []

    with pytest.raises(InvariantError, match="INV-11"):
        Server(8, 4, lambda pool, _: Hoarder(pool)).run([Request(0, 0, 6, 2)])


@pytest.mark.parametrize("fast_forward", [True, False])
def test_inv_10_a_policy_that_changes_its_mind_is_asked_in_every_step(fast_forward: bool) -> None:
    class Moody(Paged):
        stable_refusal = False
        refusals = 0

        def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
            if sequence.request.id == 1 and self.refusals:
                self.refusals -= 1
                return None
            return super().allocate(sequence, num_tokens)

    requests = [Request(0, 0, 4, 30), Request(1, 0, 4, 2)]
    server = Server(64, 4, lambda pool, _: Moody(pool))
    assert isinstance(server.alloc, Moody)
    server.alloc.refusals = 5  # its twin over an empty pool is in a better mood
    server.run(requests, backend=FakeBackend(1), fast_forward=fast_forward)
    assert requests[1].admitted_at == 5


@pytest.mark.parametrize("allocator", ["paged", "copy_on_write", "pow2-buddy"])
@pytest.mark.parametrize("scheduler", ["chunked", "mixed", "static"])
def test_inv_11_a_sample_that_has_ended_gives_the_prompt_back_that_it_stores_again_for_others(
    allocator: str, scheduler: str
) -> None:
    # Preempted when its first sample had all of its tokens, and the second one two of four.
    request = Request(0, 0, 6, 4, 2)
    ended, going_on = request.sequences
    ended.num_generated, going_on.num_generated = 4, 2
    request.forked, request.num_live, request.first_token_at = False, 1, 0
    request.num_preemptions_recompute = 1
    server = Server(40, 4, allocator, scheduler, max_model_len=40)
    server.run([request])  # raises if a block is held at the end
    assert request.status is SequenceStatus.FINISHED
    assert (ended.num_generated, going_on.num_generated) == (4, 4)
    assert server.pool.num_held == 0


def test_an_empty_pool_is_asked_for_the_longest_requests_only() -> None:
    asked: list[int] = []

    class Noted(Contiguous):
        admits_smaller = True

        def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
            asked.append(num_tokens)
            return super().allocate(sequence, num_tokens)

    never = Never(lambda: Noted(BlockPool(64, 1), 64, "pow2"))

    def answer(prompt: int, output: int) -> bool:
        return never(Request(0, 0, prompt, output).sequences)

    assert [answer(20, 8), answer(10, 8), answer(20, 3), answer(5, 5)] == [False] * 4
    assert asked == [20]
    assert [answer(21, 8), answer(60, 30), answer(21, 7)] == [False, False, False]  # pow2 is cut at max_model_len
    assert answer(65, 1)
    assert asked == [20, 21, 60, 65, 65]  # before it says never, a fresh one is asked too


@pytest.mark.parametrize("allocator", ["paged", "copy_on_write"])
def test_a_fork_says_where_histories_part(allocator: str) -> None:
    request = Request(0, 0, 6, 4, 3)
    Server(40, 4, allocator, "chunked").run([request])
    assert [sequence.branch for sequence in request.sequences] == [None, Branch(None, 6, 1), Branch(None, 6, 2)]
