"""INV-9 over generated workloads: under every policy each sequence computes the same attention outputs."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.blocks import BlockOps, BlockPool
from pagesim.journal import Journal
from pagesim.schedulers.base import Limits, Scheduler
from pagesim.schedulers.chunked import Chunked
from pagesim.schedulers.prefill_first import PrefillFirst
from pagesim.schedulers.victims import Youngest
from pagesim.sequence import Request, Sequence
from pagesim_backends.reference import Reference

MAX_MODEL_LEN = 24
NUM_SLOTS = 96  # three runs of the next power of two of MAX_MODEL_LEN, so that no policy refuses a request


class Scattered:
    """A user's policy: paged, but it takes the highest free block first and never twice in a row from one end."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(sequence.block_table)
        if missing > self.pool.num_free:
            return None
        free = [block for block, count in enumerate(self.pool.ref_counts) if not count]
        for turn in range(max(missing, 0)):
            block = free.pop(-1 if turn % 2 else 0)
            self.pool.take_at(range(block, block + 1))
            sequence.block_table.append(block)
        return BlockOps()

    def free(self, sequence: Sequence) -> None:
        self.pool.give(sequence.block_table)
        sequence.block_table = []


POLICIES: dict[str, tuple[int, Callable[[BlockPool], Allocator]]] = {
    "max": (1, lambda pool: Contiguous(pool, MAX_MODEL_LEN, "max")),
    "pow2": (1, lambda pool: Contiguous(pool, MAX_MODEL_LEN, "pow2", "first_fit")),
    "pow2 swapping": (1, lambda pool: Contiguous(pool, MAX_MODEL_LEN, "pow2", "best_fit")),
    "paged": (4, Paged),
    "copy_on_write": (4, CopyOnWrite),
    "swapping": (4, Swapping),
    "ideal": (1, Ideal),
    "plug-in": (2, Scattered),
}


def serve(
    policy: str, scheduler: type[Scheduler], shapes: list[tuple[int, int, int]]
) -> tuple[dict[tuple[int, int], str], Journal]:
    """Serve requests of (prompt, output, sequences) to the end; return each sequence's digest and the counters."""
    swaps = policy.endswith("swapping")
    block_size, build = POLICIES[policy]

    def empty() -> Allocator:
        host = BlockPool(NUM_SLOTS // block_size, block_size)
        return build(BlockPool(NUM_SLOTS // block_size, block_size, host=host))

    allocator, journal = empty(), Journal()
    num_blocks = NUM_SLOTS // block_size
    backend = Reference(
        num_blocks=num_blocks, block_size=block_size, num_host_blocks=num_blocks, seed=3, num_layers=1, head_dim=4
    )
    limits = Limits(max_num_seqs=8, max_num_batched_tokens=3 * MAX_MODEL_LEN, max_model_len=MAX_MODEL_LEN)
    served = scheduler(
        allocator,
        Account(allocator.pool, NUM_SLOTS),
        journal,
        limits,
        Youngest(),
        twin=empty,
        preemption="swap" if swaps else "recompute",
    )
    requests = [Request(number, number, *shape) for number, shape in enumerate(shapes)]
    for request in requests:
        served.add(request)
    now = 0
    while served.has_work:
        now += 1
        step = served.schedule(now)
        backend.execute(step)
        served.commit(step, now)
    digests = {
        (request.id, sequence.index): backend.digest(sequence, sequence.num_final)
        for request in requests
        for sequence in request.sequences
    }
    return digests, journal


shape = st.tuples(st.integers(1, 14), st.integers(1, 10), st.sampled_from([1, 1, 1, 2, 3]))


@given(shapes=st.lists(shape, min_size=1, max_size=7), scheduler=st.sampled_from([Chunked, PrefillFirst]))
@settings(max_examples=25)
def test_inv_9_outputs_do_not_depend_on_the_policy(
    shapes: list[tuple[int, int, int]], scheduler: type[Scheduler]
) -> None:
    found = {policy: serve(policy, scheduler, shapes)[0] for policy in POLICIES}
    for policy, digests in found.items():
        assert digests == found["paged"], policy


def test_inv_9_holds_through_recomputation_swaps_and_copies() -> None:
    shapes = [(10, 12, 1), (9, 12, 2), (12, 12, 1), (7, 14, 3), (13, 11, 2)]
    paged, paged_journal = serve("paged", Chunked, shapes)
    shared, shared_journal = serve("copy_on_write", Chunked, shapes)
    swapped, swapped_journal = serve("swapping", Chunked, shapes)
    runs, runs_journal = serve("pow2 swapping", Chunked, shapes)
    alone, _ = serve("max", PrefillFirst, shapes)
    assert paged == shared == swapped == runs == alone
    assert runs_journal.preemptions_swap > 0
    assert swapped_journal.preemptions_swap > 0
    assert len(set(paged.values())) == 9
    assert paged_journal.preemptions_recompute > 0
    assert shared_journal.copied_blocks > 0
