"""Golden counts over many small servers of odd sizes: the decisions that one trace does not come to.

Each line of the file is the sum over a number of drawn servers: pools of a few dozen slots, requests of one to three
sequences with lengths of their own or as beams, shared and pinned prefixes, hosts that are too small. ``serve`` holds
every rule meanwhile. Whoever changes a decision on purpose writes the sums anew, with

    python -m tests.golden.test_odd_servers > tests/golden/odd_servers.txt
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest

from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.testing import serve
from pagesim.testing.policies import Policy
from tests.golden.test_busy_runs import COLUMNS, SCHEDULERS

GOLDEN = Path(__file__).parent / "odd_servers.txt"
POLICIES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "paged": (Paged, {}),
    "copy_on_write": (CopyOnWrite, {}),
    "ideal": (Ideal, {"block_size": 1}),
    "swapping": (Swapping, {}),
    "pow2-buddy": (Contiguous, {"reserve": "pow2", "placement": "buddy", "block_size": 1}),
    "pow2-first_fit": (Contiguous, {"reserve": "pow2", "placement": "first_fit"}),
    "oracle-best_fit": (Contiguous, {"reserve": "oracle", "placement": "best_fit"}),
}
NUM_SERVERS = 25
MAX_MODEL_LEN = 28

_Item = TypeVar("_Item")


class Draws:
    """Choices that are the same with every version of Python: only ``random`` is."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def one_of(self, *items: _Item) -> _Item:
        """Return one of them."""
        return items[int(self._random() * len(items))]

    def between(self, low: int, high: int) -> int:
        """Return a number from ``low`` to ``high``."""
        return low + int(self._random() * (high - low + 1))


def server(seed: int, policy: type[Any], scheduler: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``serve`` for one odd server."""
    draws = Draws(seed)
    capabilities = Policy(policy, {key: options[key] for key in options if key != "block_size"}).capabilities()
    block_size = draws.one_of(1, 2, 3)
    beams = draws.one_of(None, None, draws.between(0, 9))
    made = {
        "scheduler": scheduler,
        "requests": list(_requests(draws, in_step=beams is not None, shares="Prefixes" in capabilities)),
        "block_size": block_size,
        "num_blocks": -(-draws.between(28, 44) // options.get("block_size", block_size)),
        "watermark": draws.one_of(0, 1, 2),
        "victim": draws.one_of("youngest", "least_computed", "fewest_outputs"),
        "admission": draws.one_of("after_swapped", "after_preempted"),
        "max_num_seqs": draws.one_of(3, 6, 9, 12),
        "max_num_batched_tokens": draws.between(8, 30) if scheduler == "chunked" else 3 * MAX_MODEL_LEN,
        "max_model_len": MAX_MODEL_LEN,
        "prefix_tokens": draws.one_of(3, 4, 6),
        "beams": beams,
    }
    if "Swaps" in capabilities:
        made |= {"host_blocks": draws.one_of(8, 60), "preemption": draws.one_of("swap", "swap", "by_sequences")}
    if "Prefixes" in capabilities:
        made["pin_prefixes"] = draws.one_of(False, False, True)
    return made | options


def _requests(draws: Draws, *, in_step: bool, shares: bool) -> Iterator[tuple[Any, ...]]:
    at = 0
    for _ in range(draws.between(4, 10)):
        at += draws.one_of(0, 0, 0, 0, 2, 9, 30, 100)
        width, output = draws.one_of(1, 1, 2, 3), draws.between(1, 16)
        outputs = output if in_step or width == 1 else tuple(draws.between(1, output) for _ in range(width))
        group = draws.one_of(None, 0, 1) if shares else None
        yield at, draws.between(1, 12), outputs, width, draws.one_of(None, None, 1, 5), group


def served(policy: str, scheduler: str) -> Counter[str]:
    """Return what happened on all servers of a line."""
    cls, options = POLICIES[policy]
    total: Counter[str] = Counter()
    for seed in range(NUM_SERVERS):
        total += serve(cls, **server(seed, cls, scheduler, options))
    return total


def lines() -> Iterator[str]:
    """Yield the golden file: what the columns are, then a line for each policy and scheduler."""
    yield f"# policy scheduler | {' '.join(COLUMNS)}"
    for policy, scheduler in product(POLICIES, SCHEDULERS):
        total = served(policy, scheduler)
        yield f"{policy} {scheduler} | {' '.join(str(total[column]) for column in COLUMNS)}"


@pytest.mark.parametrize(("policy", "scheduler"), [*product(POLICIES, SCHEDULERS)])
def test_golden_counts_of_odd_servers(policy: str, scheduler: str) -> None:
    texts = GOLDEN.read_text(encoding="utf-8").splitlines()[1:]
    counts = dict(line.split(" | ") for line in texts)[f"{policy} {scheduler}"]
    total = served(policy, scheduler)
    assert {column: total[column] for column in COLUMNS} == dict(zip(COLUMNS, map(int, counts.split()), strict=True))


if __name__ == "__main__":
    print("\n".join(lines()))
