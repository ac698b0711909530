"""Golden integers: five small requests in a pool of 32 slots, under every built-in policy.

The numbers come from the naive engine of ``tests/oracle``; here they are pinned, so that a change that
moves both engines is seen too.
"""

from __future__ import annotations

import pytest

from pagesim.backend import Step, StepResult
from pagesim.sequence import Request
from tests.support.runs import Server

TRACE = [(0, 5, 8, 8), (0, 9, 6, 2), (2, 3, 9, 4), (5, 10, 3, 3), (5, 2, 1, 1)]
"""Arrival, prompt, output, estimate."""

# Allocator, scheduler, iterations, preemptions, recomputed tokens | slots held in each tick | tick of each last token
GOLDEN = """\
max-buddy       mixed         15 0  0 | 32 32 32 32 32 32 32 32 32 32 32 32 16 16 16 | 8 6 15 11 12
max-buddy       prefill_first 17 0  0 | 32 32 32 32 32 32 32 32 32 32 32 32 32 16 16 16 16 | 9 6 17 12 13
max-buddy       static        18 0  0 | 32 32 32 32 32 32 32 32 32 32 32 32 32 32 32 32 32 16 | 8 6 17 11 18
pow2-buddy      mixed         15 0  0 | 32 32 32 32 32 32 24 24 28 24 24 16 16 16 16 | 8 6 15 11 9
pow2-buddy      prefill_first 16 0  0 | 32 32 32 32 32 32 24 24 24 28 24 24 16 16 16 16 | 9 6 16 12 10
pow2-buddy      static        17 1  7 | 32 32 32 32 32 32 32 32 28 28 28 28 28 16 16 16 16 | 8 6 17 11 9
pow2-first_fit  mixed         17 1  3 | 24 24 31 26 26 29 20 20 7 7 11 11 11 11 17 14 14 | 8 6 14 17 15
pow2-first_fit  prefill_first 17 1  4 | 24 24 31 31 26 26 29 20 20 20 11 11 11 11 17 14 14 | 10 7 14 17 15
pow2-first_fit  static        17 1  7 | 24 24 24 26 26 29 29 29 24 24 24 24 24 11 11 11 11 | 8 6 17 11 9
oracle-buddy    mixed         15 0  0 | 32 32 32 32 32 32 32 32 32 32 32 18 16 16 16 | 8 6 15 11 12
oracle-buddy    prefill_first 17 0  0 | 32 32 32 32 32 32 32 32 32 32 32 32 18 16 16 16 16 | 9 6 17 12 13
oracle-buddy    static        18 0  0 | 32 32 32 32 32 32 32 32 32 32 32 32 32 32 32 32 32 2 | 8 6 17 11 18
oracle-best_fit mixed         15 0  0 | 26 26 26 26 26 26 23 23 25 23 23 11 11 11 11 | 8 6 15 11 9
oracle-best_fit prefill_first 16 0  0 | 26 26 26 26 26 26 23 23 23 25 23 23 11 11 11 11 | 9 6 16 12 10
oracle-best_fit static        17 0  0 | 26 26 26 26 26 26 26 26 25 25 25 25 25 25 25 25 25 | 8 6 17 11 9
paged           mixed         13 1  4 | 20 20 24 24 28 28 32 32 24 8 12 12 12 | 8 6 13 9 9
paged           prefill_first 14 1  5 | 20 20 24 24 28 28 28 32 32 32 12 12 12 12 | 10 7 14 10 11
paged           static        17 0  0 | 20 20 20 20 28 28 28 28 20 20 24 24 24 24 28 28 28 | 8 6 17 11 9
ideal           mixed         11 0  0 | 14 16 21 24 27 30 30 31 21 10 11 | 8 6 11 9 7
ideal           prefill_first 13 1 11 | 14 16 19 22 25 28 31 29 30 21 21 10 11 | 10 7 13 11 8
ideal           static        17 0  0 | 14 16 18 20 22 24 25 26 15 17 19 20 21 22 23 24 25 | 8 6 17 11 9
"""


class HeldBackend:
    """Every step takes one tick; what the pool holds in it is kept."""

    def __init__(self, server: Server) -> None:
        self.pool = server.pool
        self.held: list[int] = []

    def execute(self, step: Step) -> StepResult:
        """Look at the pool."""
        self.held.append(self.pool.num_held * self.pool.block_size)
        return StepResult(1, overhead=1)


def serve(allocator: str, scheduler: str, requests: list[Request]) -> tuple[Server, list[int]]:
    """Serve ``requests`` in 32 slots; return the server and what was held in each step."""
    block_size = 4 if allocator in ("paged", "copy_on_write", "swapping") else 1
    server = Server(
        32 // block_size,
        block_size,
        allocator,
        scheduler,
        max_num_seqs=8,
        max_num_batched_tokens=16,
        max_model_len=16,
    )
    backend = HeldBackend(server)
    server.run(requests, backend=backend, fast_forward=False)
    return server, backend.held


@pytest.mark.parametrize("line", GOLDEN.splitlines())
def test_golden_integers_of_each_policy(line: str) -> None:
    counts, held, ends = (part.split() for part in line.split("|"))
    allocator, scheduler, *expected = counts
    requests = [Request(number, at, p, o, estimate=e) for number, (at, p, o, e) in enumerate(TRACE)]
    server, found = serve(allocator, scheduler, requests)
    journal = server.journal
    assert [journal.iterations, journal.preemptions_recompute, journal.recomputed_tokens] == list(map(int, expected))
    assert found == list(map(int, held))
    assert [request.last_token_at for request in requests] == list(map(int, ends))


@pytest.mark.parametrize("scheduler", ["mixed", "prefill_first", "static"])
@pytest.mark.parametrize("allocator", ["copy_on_write", "swapping"])
def test_single_sequences_share_nothing_so_all_paged_policies_agree(allocator: str, scheduler: str) -> None:
    runs = []
    for policy in ("paged", allocator):
        requests = [Request(number, at, p, o, estimate=e) for number, (at, p, o, e) in enumerate(TRACE)]
        _, held = serve(policy, scheduler, requests)
        runs.append((held, [request.last_token_at for request in requests]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("allocator", "held", "copied"),
    [
        ("max-first_fit", [16, 32, 32], 6),  # a run each, and six slots are copied
        ("oracle-first_fit", [8, 16, 16], 6),
        ("paged", [8, 16, 16], 2),  # two blocks each, and both are copied
        ("copy_on_write", [8, 12, 12], 1),  # the full block is shared, the partial one is copied for the first writer
        ("swapping", [8, 12, 12], 1),
        ("ideal", [6, 8, 10], 0),
    ],
)
def test_golden_integers_of_a_forked_pair(allocator: str, held: list[int], copied: int) -> None:
    """A prompt of 6, two samples of 3 tokens: 6 slots, then one more for each in each step."""
    server, found = serve(allocator, "mixed", [Request(0, 0, 6, 3, 2)])
    assert (found, server.journal.copied_blocks, server.journal.output_tokens) == (held, copied, 6)
