"""The scenarios with known answers: small enough to follow by hand."""

from __future__ import annotations

import pytest

from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.backend import FakeBackend, Step, StepResult
from pagesim.blocks import BlockPool, Copy, SwapIn, SwapOut
from pagesim.record import STATUSES
from pagesim.sequence import Request, Sequence
from tests.support.contents import ContentBackend
from tests.support.runs import Server, contiguous
from tests.support.sequences import fork, make_request, make_sequence, store


def requests(*sizes: tuple[int, int]) -> list[Request]:
    """Return requests of (prompt, output) tokens that all arrive at the start."""
    return [Request(number, 0, prompt, output) for number, (prompt, output) in enumerate(sizes)]


def steps(backend: FakeBackend) -> list[tuple[list[tuple[int, int]], list[int]]]:
    """Return each step as (prefills, decodes)."""
    return [(list(prefills), list(decodes)) for prefills, decodes, _ in backend.steps]


@pytest.mark.parametrize(("watermark", "admitted"), [(0, 4), (1, 3)])
def test_four_blocks_hold_four_one_block_requests_and_three_above_a_watermark(watermark: int, admitted: int) -> None:
    server = Server(4, 4, watermark=watermark)
    for request in requests(*[(3, 2)] * 5):
        server.sched.add(request)
    step = server.sched.schedule(0)
    assert [chunk.sequence.request.id for chunk in step.prefills] == list(range(admitted))
    assert [request.id for request in server.sched.waiting] == list(range(admitted, 5))
    assert (server.sched.held, server.sched.refused_by_allocator) == ("memory", True)
    assert all(request.reason == "" for request in server.sched.waiting)  # not now, which is not never


def test_two_sequences_that_share_three_tokens_copy_once() -> None:
    allocator = CopyOnWrite(BlockPool(4, 4))
    first, second = make_request(3, num_sequences=2).sequences
    store(allocator, first, 3)
    fork(allocator, first, second)
    free = allocator.pool.num_free
    assert store(allocator, first, 1) == [Copy(second.block_table[0], first.block_table[0])]
    assert allocator.pool.num_free == free - 1
    assert store(allocator, second, 1) == []
    assert allocator.pool.num_free == free - 1


def test_figure_6_the_first_generated_token_fills_the_second_block_and_the_next_takes_a_third() -> None:
    allocator = Paged(BlockPool(8, 4))
    sequence = make_sequence(7)
    held = []
    for num_tokens in (7, 1, 1):
        store(allocator, sequence, num_tokens)
        held.append(len(sequence.block_table))
    assert held == [2, 2, 3]


def test_figure_9_four_beams_of_which_two_go_on() -> None:
    """Candidates 0 to 2 share blocks 0, 1 and 3, candidate 3 left after block 0; the next four come from 1 and 2."""
    allocator = CopyOnWrite(BlockPool(20, 4))
    pool = allocator.pool
    beams = make_request(4, num_sequences=4).sequences

    def extend(*chosen: Sequence) -> None:
        for sequence in chosen:
            store(allocator, sequence, 4)

    extend(beams[0])
    fork(allocator, beams[0], beams[3])
    extend(beams[0], beams[3])
    extend(beams[0], beams[3])
    fork(allocator, beams[0], beams[1])
    fork(allocator, beams[0], beams[2])
    extend(*beams)
    assert [beam.block_table for beam in beams] == [[0, 1, 3, 5], [0, 1, 3, 6], [0, 1, 3, 7], [0, 2, 4, 8]]

    successors = make_request(4, num_sequences=4).sequences
    for child, parent in zip(successors, (beams[1], beams[1], beams[2], beams[2]), strict=True):
        assert fork(allocator, parent, child) == []
    for parent in beams:
        allocator.free(parent)
    assert [block for block in range(9) if not pool.ref_counts[block]] == [2, 4, 5, 8]
    free = pool.num_free
    for sequence in successors:
        assert store(allocator, sequence, 1) == []
    assert free - pool.num_free == 4
    tables = [sequence.block_table for sequence in successors]
    assert [table[:3] for table in tables] == [[0, 1, 3]] * 4
    assert [table[3] for table in tables] == [6, 6, 7, 7]
    assert len({table[4] for table in tables}) == 4


def test_a_swapped_pair_of_tables_moves_four_blocks_and_shares_the_same_afterwards() -> None:
    host = BlockPool(8, 1)
    allocator = Swapping(BlockPool(16, 1, host=host))
    allocator.pool.take_at(range(12, 16))
    allocator.pool.share([15])
    first, second = make_request(1, num_sequences=2).sequences
    first.block_table, second.block_table = [15, 13, 12], [15, 14]
    first.num_stored, second.num_stored = 3, 2
    out = allocator.swap_out([first, second])
    assert out is not None
    assert sorted(op.device for op in out if isinstance(op, SwapOut)) == [12, 13, 14, 15]
    assert len(out) == host.num_held == 4
    assert first.host_table[0] == second.host_table[0]
    back = allocator.swap_in([first, second])
    assert back is not None
    assert len(back) == len([op for op in back if isinstance(op, SwapIn)]) == 4
    assert first.block_table[0] == second.block_table[0]
    assert len({*first.block_table, *second.block_table}) == allocator.pool.num_held == 4


def test_of_two_prompts_in_two_blocks_the_second_is_preempted_and_prefilled_again() -> None:
    server, backend = Server(2, 4, scheduler="mixed"), FakeBackend(10)
    recorder = server.run(requests((4, 3), (4, 3)), backend=backend)
    assert steps(backend) == [
        ([(0, 4), (1, 4)], []),
        ([], [0]),
        ([], [0]),
        ([(1, 5)], []),
        ([], [1]),
    ]
    record = recorder.record(1)
    assert record.column("first_token_at").tolist() == [10, 10]
    assert record.column("last_token_at").tolist() == [30, 50]
    assert record.column("preemptions_recompute").tolist() == [0, 1]
    assert record.column("recomputed_tokens").tolist() == [0, 4]


def test_chunks_of_two_prompts_of_60_fill_a_budget_of_64() -> None:
    server, backend = Server(100, 4, scheduler="chunked", max_num_batched_tokens=64), FakeBackend(10)
    server.run(requests((60, 3), (60, 3)), backend=backend)
    assert steps(backend) == [
        ([(0, 60), (1, 4)], []),
        ([(1, 56)], [0]),
        ([], [0, 1]),
        ([], [1]),
    ]


def test_figure_3_a_maximal_reservation_is_almost_all_internal() -> None:
    """Of 2,048 slots 7 hold the prompt and 1 the current token; 2 will be written, 2,038 never."""
    server = Server(2048, 1, contiguous("max", "buddy"), max_model_len=2048)
    request = Request(0, 0, 7, 4)  # four tokens are generated; with the last one unstored 7 + 4 - 1 are stored
    server.sched.add(request)
    server.sched.commit(server.sched.schedule(0), 10)
    server.sched.commit(server.sched.schedule(10), 20)
    account = server.account
    assert account.live == 7 + 1
    assert account.useful - account.live == 2
    assert account.internal == 2038
    assert (account.external, account.free) == (0, 0)


def test_requests_that_never_fit_are_refused_and_wait_for_nobody() -> None:
    server, backend = Server(4, 4, max_model_len=100), FakeBackend(10)
    record = server.run(requests((20, 2), (6, 20), (3, 2)), backend=backend).record(1)
    assert [STATUSES[status] for status in record.column("status")] == ["refused", "refused", "finished"]
    assert record.refusals[0] == "never fits: an empty pool does not admit 20 tokens"
    assert record.refusals[1] == "outgrew the pool: alone in it, it cannot grow"
    assert record.column("admitted_at").tolist() == [-1, 0, 0]
    # The second fills 16 slots: 6 of its prompt, and 10 of the 11 tokens that it generates.
    assert record.end.counters["output_tokens"] == 11 + 2
    assert server.journal.preemptions_recompute == 0


def test_a_request_of_199_of_200_blocks_comes_back_above_a_watermark_of_2() -> None:
    """The first holds one block and takes a second; the other, two sequences over 197 shared blocks, gives way."""
    server = Server(
        200,
        16,
        "swapping",
        watermark=2,
        host_blocks=199,
        options={"preemption": "swap"},
        max_model_len=4096,
    )
    small, large = Request(0, 0, 1, 20), Request(1, 0, 197 * 16, 17, 2)
    record = server.run([small, large], backend=ContentBackend(16)).record(1)
    assert [STATUSES[status] for status in record.column("status")] == ["finished", "finished"]
    assert record.column("preemptions_swap").tolist() == [0, 1]
    assert (server.journal.swapped_out_blocks, server.journal.swapped_in_blocks) == (199, 199)
    assert record.column("recomputed_tokens").tolist() == [0, 0]


def outrunning() -> tuple[Server, list[Request]]:
    """Return requests of which, in the third step, the first outruns its run at 0 to 3 and the second enters it."""
    server = Server(40, 1, contiguous("pow2", "first_fit"), max_model_len=40)
    sizes = [(3, 6, 1), (1, 6, 1), (1, 9, 16)]
    return server, [Request(n, 0, prompt, output, estimate=e) for n, (prompt, output, e) in enumerate(sizes)]


def test_a_chain_of_moves_keeps_contents() -> None:
    server, arrivals = outrunning()
    recorded = FakeBackend(10)
    server.run(arrivals, backend=recorded)
    assert [list(ops) for _, _, ops in recorded.steps[:3]] == [[], [], [Copy(0, 23, 4), Copy(4, 0, 2)]]
    server, arrivals = outrunning()
    server.run(arrivals, backend=ContentBackend(1))


def test_a_chain_of_moves_out_of_order_would_destroy_contents() -> None:
    class Reversing(ContentBackend):
        def execute(self, step: Step) -> StepResult:
            step.ops.reverse()
            return super().execute(step)

    server, arrivals = outrunning()
    with pytest.raises(AssertionError, match="reads"):
        server.run(arrivals, backend=Reversing(1))
