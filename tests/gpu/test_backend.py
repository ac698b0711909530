"""INV-9 and INV-12 on the GPU: the same schedulers and policies as everywhere, on real blocks.

Every token's attention output, in every layer, is compared with float64 from the token's hash. The pool is
NaN until it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.backend import Chunk, Step
from pagesim.blocks import BlockOps, BlockPool, SwapOut
from pagesim.errors import BackendError
from pagesim.journal import Journal
from pagesim.schedulers.base import Limits
from pagesim.schedulers.chunked import Chunked
from pagesim.schedulers.victims import Youngest
from pagesim.sequence import Request, Sequence
from pagesim_backends import tokens
from tests.gpu.oracle import NAN_BITS, TOLERANCE, attention, error, from_bits

cupy = pytest.importorskip("cupy", reason="needs CuPy (the extra cuda12 or cuda13)")

NUM_SLOTS, MAX_MODEL_LEN = 1024, 256
LAYERS, QUERY_HEADS, KV_HEADS, HEAD_DIM = 3, 8, 2, 64
SEED = 11
SHAPES = [(100, 60, 1), (90, 80, 2), (130, 50, 1), (70, 90, 3), (150, 70, 2), (33, 100, 1), (17, 120, 2)]
"""(prompt, output, sequences) of requests that do not fit all at once."""


class Backwards:
    """A user's policy: paged, but it takes the highest free block first."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(sequence.block_table)
        if missing > self.pool.num_free:
            return None
        for _ in range(max(missing, 0)):
            block = max(block for block, count in enumerate(self.pool.ref_counts) if not count)
            self.pool.take_at(range(block, block + 1))
            sequence.block_table.append(block)
        return BlockOps()

    def free(self, sequence: Sequence) -> None:
        self.pool.give(sequence.block_table)
        sequence.block_table = []


POLICIES: dict[str, tuple[int, bool, Callable[[BlockPool], Allocator]]] = {
    "max": (1, True, lambda pool: Contiguous(pool, MAX_MODEL_LEN, "max")),
    "pow2": (1, True, lambda pool: Contiguous(pool, MAX_MODEL_LEN, "pow2", "first_fit")),
    "paged": (16, False, Paged),
    "copy_on_write": (16, False, CopyOnWrite),
    "swapping": (16, False, Swapping),
    "ideal": (1, False, Ideal),
    "plug-in": (8, False, Backwards),
}


def make_backend(
    block_size: int, contiguous: bool, *, dtype: str = "float16", num_slots: int = NUM_SLOTS, tune: bool = False
) -> Any:
    from pagesim_backends.cuda.backend import Cuda

    backend = Cuda(
        num_blocks=num_slots // block_size,
        block_size=block_size,
        num_host_blocks=num_slots // block_size,
        num_layers=LAYERS,
        num_query_heads=QUERY_HEADS,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        dtype=dtype,
        contiguous=contiguous,
        seed=SEED,
        tune=tune,
        keep_outputs=True,
    )
    backend.pool.fill(NAN_BITS)
    cupy.cuda.Device().synchronize()
    return backend


def serve(policy: str, dtype: str) -> tuple[Any, list[Request], Journal]:
    """Serve all requests under a policy; return the backend with its outputs."""
    block_size, contiguous, build = POLICIES[policy]

    def empty() -> Allocator:
        host = BlockPool(NUM_SLOTS // block_size, block_size)
        return build(BlockPool(NUM_SLOTS // block_size, block_size, host=host))

    allocator, journal = empty(), Journal()
    backend = make_backend(block_size, contiguous, dtype=dtype)
    scheduler = Chunked(
        allocator,
        Account(allocator.pool, NUM_SLOTS),
        journal,
        Limits(max_num_seqs=16, max_num_batched_tokens=3 * MAX_MODEL_LEN, max_model_len=MAX_MODEL_LEN),
        Youngest(),
        twin=empty,
        preemption="swap" if policy == "swapping" else "recompute",
    )
    requests = [Request(number, number, *shape) for number, shape in enumerate(SHAPES)]
    for request in requests:
        scheduler.add(request)
    now = 0
    while scheduler.has_work:
        now += 1
        step = scheduler.schedule(now)
        result = backend.execute(step)
        assert result.duration == sum(result[1:]) > 0
        scheduler.commit(step, now)
    backend.close()
    return backend, requests, journal


def expected_outputs(sequence: Sequence, num_tokens: int) -> tuple[list[int], Any]:
    """Return the keys of a sequence's tokens and their outputs in float64, (tokens, layers, heads, head_dim)."""
    keys = tokens.token_keys(tokens.runs_of(sequence, SEED, 0, num_tokens))
    query = cupy.asarray(tokens.values(keys, tokens.QUERY, LAYERS, QUERY_HEADS, HEAD_DIM))
    key = cupy.asarray(tokens.values(keys, tokens.KEY, LAYERS, KV_HEADS, HEAD_DIM))
    value = cupy.asarray(tokens.values(keys, tokens.VALUE, LAYERS, KV_HEADS, HEAD_DIM))
    outputs = cupy.empty_like(query)
    for position in range(num_tokens):
        for layer in range(LAYERS):
            outputs[position, layer] = attention(
                query[position, layer], key[: position + 1, layer], value[: position + 1, layer]
            )
    return keys.tolist(), outputs


@pytest.fixture(scope="module")
def expected() -> dict[tuple[int, int], tuple[list[int], Any]]:
    """Return what each sequence has to compute; it does not depend on the policy."""
    requests = [Request(number, number, *shape) for number, shape in enumerate(SHAPES)]
    return {
        (request.id, sequence.index): expected_outputs(sequence, sequence.num_final)
        for request in requests
        for sequence in request.sequences
    }


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_inv_9_outputs_agree_with_float64_under_every_policy(
    dtype: str, policy: str, expected: dict[tuple[int, int], tuple[list[int], Any]]
) -> None:
    bf16 = dtype == "bfloat16"
    backend, requests, journal = serve(policy, dtype)
    assert journal.finished == len(SHAPES)
    if policy == "swapping":
        assert journal.preemptions_swap > 0
    elif policy in ("paged", "plug-in"):
        assert journal.preemptions_recompute > 0
    for request in requests:
        for sequence in request.sequences:
            keys, outputs = expected[request.id, sequence.index]
            found = cupy.asarray(
                np.stack([np.stack([backend.outputs[key, layer] for layer in range(LAYERS)]) for key in keys])
            )
            assert error(from_bits(found, bf16), outputs) < TOLERANCE[bf16], (request.id, sequence.index)


def test_a_step_says_what_it_moved_and_read() -> None:
    backend = make_backend(16, False)
    made = Request(0, 0, 40, 8).sequences[0]
    made.block_table = [3, 1, 2]
    result = backend.execute(Step(prefills=[Chunk(made, 40, num_recomputed=10)]))
    assert result.recompute == pytest.approx((result.prefill + result.recompute) / 4, abs=1)
    per_token = 2 * LAYERS * KV_HEADS * HEAD_DIM * 2
    assert backend.last.read_bytes == 40 * per_token
    made.num_stored = 40
    result = backend.execute(Step(decodes=[made], num_decodes=1))
    assert result.attention == result.duration
    assert backend.last.read_bytes == 41 * per_token
    assert backend.last.host_s > 0
    backend.execute(Step(ops=BlockOps([SwapOut(3, 0), SwapOut(1, 5)])))
    assert backend.last.swapped_out_bytes == 2 * 16 * per_token


def test_a_graph_is_replayed_while_lengths_change() -> None:
    backend = make_backend(16, False)
    made = Request(0, 0, 40, 100).sequences[0]
    made.block_table = list(range(20))
    backend.execute(Step(prefills=[Chunk(made, 40)]))
    made.num_stored = 40
    for _ in range(60):
        backend.execute(Step(decodes=[made], num_decodes=1))
        made.num_stored += 1
    assert len(backend._graphs) < 10
    keys, outputs = expected_outputs(made, 100)
    found = cupy.asarray(np.stack([np.stack([backend.outputs[key, layer] for layer in range(LAYERS)]) for key in keys]))
    assert error(from_bits(found, False), outputs) < TOLERANCE[False]


def test_plans_that_are_tried_leave_no_trace() -> None:
    backend = make_backend(16, False, tune=True)
    sequences = [Request(number, number, 20 + 30 * number, 8).sequences[0] for number in range(3)]
    for number, sequence in enumerate(sequences):
        sequence.block_table = list(range(10 * number, 10 * number + 10))
        backend.execute(Step(prefills=[Chunk(sequence, sequence.request.prompt_tokens)]))
        sequence.num_stored = sequence.request.prompt_tokens
    for _ in range(3):
        backend.execute(Step(decodes=sequences, num_decodes=3))
        for sequence in sequences:
            sequence.num_stored += 1
    assert len(backend.decode.planner._choices) == 1
    for sequence in sequences:
        keys, outputs = expected_outputs(sequence, sequence.num_stored)
        stacked = np.stack([np.stack([backend.outputs[key, layer] for layer in range(LAYERS)]) for key in keys])
        assert error(from_bits(cupy.asarray(stacked), False), outputs) < TOLERANCE[False]


def test_a_table_that_is_too_short_is_refused() -> None:
    backend = make_backend(16, False)
    made = Request(0, 0, 40, 8).sequences[0]
    made.block_table = [3, 1]
    with pytest.raises(BackendError, match=r"INV-2: request 0, sequence 0 stores 40 tokens in 2 blocks of 16"):
        backend.execute(Step(prefills=[Chunk(made, 40)]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float32"}, r"computes in float16 or bfloat16, not in 'float32'"),
        ({"block_size": 48}, r"serves block sizes 1, 2, 4, ... 256, not 48"),
        ({"head_dim": 72}, r"no kernel for head_dim 72"),
        ({"num_blocks": 10**9}, r"slots needs .* of device memory"),
    ],
)
def test_bad_sizes_are_refused(options: dict[str, Any], message: str) -> None:
    from pagesim_backends.cuda.backend import Cuda

    sizes: dict[str, Any] = {
        "num_blocks": 8,
        "block_size": 16,
        "num_layers": 1,
        "num_query_heads": 2,
        "num_kv_heads": 2,
        "head_dim": 64,
    }
    with pytest.raises(BackendError, match=message):
        Cuda(**(sizes | options))
