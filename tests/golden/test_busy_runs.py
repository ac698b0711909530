"""Golden counts of a server that is short of everything, for each policy under each scheduler.

The trace has single requests, groups of two and three and prefixes that requests share; it is served with samples of
different lengths, with beams, and with prefixes that are pinned. ``serve`` holds every rule meanwhile, and makes each
run twice, fast-forwarded and not.
The counts say which decisions were taken: whoever changes one on purpose writes them anew, with

    python -m tests.golden.test_busy_runs > tests/golden/busy_runs.txt
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pagesim import plugins
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.testing import serve
from pagesim.testing.policies import Policy

PLUGINS = Path(__file__).parents[2] / "experiments" / "plugins"
GOLDEN = Path(__file__).parent / "busy_runs.txt"
SCHEDULERS = ("chunked", "mixed", "prefill_first", "static")
WORKLOADS: dict[str, dict[str, Any]] = {"samples": {}, "beams": {"beams": 1}, "pinned": {"pin_prefixes": True}}

POLICIES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "paged": (Paged, {"block_size": 2}),
    "copy_on_write": (CopyOnWrite, {"block_size": 3, "victim": "least_computed"}),
    "ideal": (Ideal, {"admission": "after_preempted"}),
    "swapping": (Swapping, {"block_size": 2, "host_blocks": 30, "preemption": "swap"}),
    "swapping-groups": (Swapping, {"host_blocks": 9, "preemption": "by_sequences", "victim": "fewest_outputs"}),
    "max": (Contiguous, {"reserve": "max", "placement": "first_fit"}),
    "pow2": (Contiguous, {"reserve": "pow2", "placement": "buddy"}),
    "pow2-swapping": (
        Contiguous,
        {"reserve": "pow2", "host_blocks": 40, "preemption": "swap", "placement": "best_fit"},
    ),
    "oracle": (Contiguous, {"reserve": "oracle", "placement": "best_fit", "victim": "longest_remaining"}),
    "doubling": (plugins.resolve("allocator", "doubling:Doubling", PLUGINS), {"block_size": 2}),
    "growing": (plugins.resolve("allocator", "growing:Growing", PLUGINS), {"admission": "after_preempted"}),
}
NUM_SLOTS = 48

# Arrival, prompt, output (of each sample; beams are as long as the longest), sequences, estimate, prefix group
TRACE: list[tuple[Any, ...]] = [
    (0, 9, 12, 1, None, 0),
    (0, 5, (9, 6, 2), 3, 4, None),
    (0, 3, 20, 1, 6, None),
    (2, 10, 6, 2, None, 0),
    (2, 8, 1, 1, None, 1),
    (9, 14, 10, 1, 3, None),
    (9, 9, (7, 5, 1), 3, None, 1),
    (30, 1, 2, 1, None, None),
    (31, 11, (13, 4), 2, 9, 0),
    (60, 2, 17, 1, 20, None),
    (61, 9, (8, 2), 2, 3, 1),
    (61, 7, 4, 1, None, 0),
    (190, 16, 14, 1, 5, None),
    (190, 4, 11, 3, None, None),
    (191, 9, 7, 1, None, 1),
    (700, 3, 3, 2, None, None),
]

COLUMNS = (
    "ticks",
    "iterations",
    "finished",
    "refused",
    "output_tokens",
    "preemptions_recompute",
    "preemptions_swap",
    "recomputed_tokens",
    "copied_blocks",
    "swapped_out_blocks",
    "swapped_in_blocks",
    "matched_tokens",
    "lookups_first",
    "lookups_retry",
    "lookups_preempted",
    "load_ticks",
    "memory_ticks",
    "sequences_ticks",
    "tokens_ticks",
    "idle_ticks",
    "live_integral",
    "internal_integral",
    "external_integral",
    "references_integral",
    "waiting_integral",
    "swapped_integral",
)


def _in_step(at: int, prompt: int, output: int | tuple[int, ...], *others: Any) -> tuple[Any, ...]:
    return (at, prompt, max(output) if isinstance(output, tuple) else output, *others)


class Case(NamedTuple):
    """One run."""

    policy: str
    scheduler: str
    workload: str

    def serve(self) -> Counter[str]:
        """Return what happened."""
        policy, options = POLICIES[self.policy]
        chunks = self.scheduler == "chunked"
        return serve(
            policy,
            scheduler=self.scheduler,
            requests=[_in_step(*each) if self.workload == "beams" else each for each in TRACE],
            num_blocks=NUM_SLOTS // options.get("block_size", 1),
            watermark=1,
            max_num_seqs=7,
            max_num_batched_tokens=12 if chunks else 93,
            max_model_len=31,
            prefix_tokens=6,
            **WORKLOADS[self.workload],
            **options,
        )


def cases() -> Iterator[Case]:
    """Yield what is run: without forks there are no beams, and only who can share prefixes can pin them."""
    for (name, (cls, options)), scheduler in product(POLICIES.items(), SCHEDULERS):
        policy = Policy(cls, {key: options[key] for key in options if plugins.accepts(cls, key)})
        yield Case(name, scheduler, "samples")
        if "Forks" in policy.capabilities():
            yield Case(name, scheduler, "beams")
        if policy.takes("pin_prefixes"):
            yield Case(name, scheduler, "pinned")


CASES = list(cases())


def lines() -> Iterator[str]:
    """Yield the golden file: what the columns are, then a line a run."""
    yield f"# policy scheduler workload | {' '.join(COLUMNS)}"
    for case in CASES:
        happened = case.serve()
        yield f"{' '.join(case)} | {' '.join(str(happened[column]) for column in COLUMNS)}"


@pytest.fixture(scope="module")
def golden() -> dict[Case, dict[str, int]]:
    """Return the counts of each run."""
    found = {}
    for line in GOLDEN.read_text(encoding="utf-8").splitlines()[1:]:
        names, counts = line.split("|")
        found[Case(*names.split())] = dict(zip(COLUMNS, map(int, counts.split()), strict=True))
    return found


def test_every_run_has_its_line(golden: dict[Case, dict[str, int]]) -> None:
    assert list(golden) == CASES
    total: Counter[str] = Counter()
    for counts in golden.values():
        total.update(counts)
    assert all(total[column] for column in COLUMNS), "the trace goes everywhere"


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_golden_counts_of_a_busy_run(case: Case, golden: dict[Case, dict[str, int]]) -> None:
    happened = case.serve()
    assert {column: happened[column] for column in COLUMNS} == golden[case]


if __name__ == "__main__":
    print("\n".join(lines()))
