"""The bound: for the same set of sequences no policy holds fewer slots than ``ideal``."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.allocators.base import Allocator
from pagesim.allocators.ideal import Ideal
from pagesim.blocks import BlockPool
from tests.support.runs import ALLOCATORS
from tests.support.sequences import fork, make_request, store


def held_slots(allocator: Allocator) -> int:
    """Return the slots in blocks that somebody holds."""
    return allocator.pool.num_held * allocator.pool.block_size


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), block_size=st.integers(1, 8))
def test_no_policy_holds_fewer_slots_than_ideal(name: str, block_size: int, seed: int) -> None:
    """The same prompts, forks, tokens and ends under both, in pools that are large enough."""
    rng = Random(seed)
    size = 1 if name == "ideal" else block_size
    allocator = ALLOCATORS[name](BlockPool(16_384 // size, size), 64)
    ideal = Ideal(BlockPool(16_384, 1))
    requests = []
    for _ in range(rng.randint(1, 4)):
        prompt, output, width = rng.randint(1, 30), rng.randint(1, 30), rng.randint(1, 4)
        pair = [make_request(prompt, output, width, estimate=rng.choice([output, 1])) for _ in range(2)]
        requests.append(pair)
        for policy, request in zip((allocator, ideal), pair, strict=True):
            assert store(policy, request.sequences[0], prompt) is not None
        assert held_slots(allocator) >= held_slots(ideal)
        for index in range(1, width):
            for policy, request in zip((allocator, ideal), pair, strict=True):
                assert fork(policy, request.sequences[0], request.sequences[index]) is not None
        assert held_slots(allocator) >= held_slots(ideal)
    live = [(pair, index) for pair in requests for index in range(len(pair[0].sequences))]
    while live:
        pair, index = choice = rng.choice(live)
        sequence = pair[0].sequences[index]
        if sequence.num_stored < sequence.num_final and rng.random() < 0.95:
            for policy, request in zip((allocator, ideal), pair, strict=True):
                assert store(policy, request.sequences[index], 1) is not None
        else:
            for policy, request in zip((allocator, ideal), pair, strict=True):
                policy.free(request.sequences[index])
            live.remove(choice)
        assert held_slots(allocator) >= held_slots(ideal)
    assert held_slots(allocator) == held_slots(ideal) == 0


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_ideal_holds_exactly_the_distinct_tokens(seed: int) -> None:
    """Tokens of a common past count once, whatever the order of forks and appends."""
    rng = Random(seed)
    ideal = Ideal(BlockPool(16_384, 1))
    request = make_request(rng.randint(1, 20), num_sequences=5)
    store(ideal, request.sequences[0], request.prompt_tokens)
    tokens = [[("prompt", position) for position in range(request.prompt_tokens)]]
    for _ in range(rng.randint(1, 40)):
        index = rng.randrange(len(tokens))
        if rng.random() < 0.2 and len(tokens) < 5:
            fork(ideal, request.sequences[index], request.sequences[len(tokens)])
            tokens.append(list(tokens[index]))
        else:
            store(ideal, request.sequences[index], 1)
            tokens[index].append((f"sequence {index} of {len(tokens)}", len(tokens[index])))
        distinct = {block for sequence in request.sequences for block in sequence.block_table}
        assert ideal.pool.num_held == len(distinct) == len({token for stored in tokens for token in stored})
