"""Random servers: small pools, a few requests, every scheduler and every way to preempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from pagesim.schedulers.base import Scheduler
from pagesim.testing.policies import Policy

VICTIMS = ("youngest", "least_computed", "fewest_outputs", "longest_remaining")


def preemptions(capabilities: list[str]) -> list[str]:
    """Return the ways to preempt that a policy allows."""
    return ["recompute", "swap", "by_sequences"] if "Swaps" in capabilities else ["recompute"]


@st.composite
def servers(
    draw: st.DrawFn, policy: Policy, capabilities: list[str], schedulers: Mapping[str, type[Scheduler]], preemption: str
) -> dict[str, Any]:
    """Draw the arguments of ``serve``: memory that holds the longest request, and some of the others."""
    scheduler = draw(st.sampled_from(sorted(schedulers)))
    width = draw(st.sampled_from([1, 1, 2, 3]))
    beams = draw(st.none() | st.integers(0, 9)) if width > 1 and "Forks" in capabilities else None
    sizes = draw(st.lists(_SIZES, min_size=1, max_size=6))
    requests = draw(_requests(sizes, width, shares="Prefixes" in capabilities, in_step=width == 1 or beams is not None))
    longest = max(prompt + output for _, prompt, output in sizes)
    block_size = draw(st.integers(1, 5))
    num_slots = longest + draw(st.integers(0, longest * (1 + width)))
    arguments: dict[str, Any] = {
        "num_blocks": -(-num_slots // block_size),
        "block_size": block_size,
        "watermark": draw(st.sampled_from([0, 1, 2])),
        "scheduler": scheduler,
        "victim": draw(st.sampled_from(VICTIMS)),
        "admission": draw(st.sampled_from(["after_swapped", "after_preempted"])),
        "max_num_seqs": max(draw(st.sampled_from([8, 4, 2])), width),
        "max_model_len": longest + draw(st.sampled_from([0, 5])),
        "preemption": preemption,
        "requests": requests,
        **policy.options,
    }
    chunks = getattr(schedulers[scheduler], "chunks_prompts", False)
    arguments["max_num_batched_tokens"] = draw(st.integers(8, 40)) if chunks else arguments["max_model_len"] * width
    if preemption != "recompute":
        arguments["host_blocks"] = draw(st.sampled_from([100, 5, 1]))
    if beams is not None:
        arguments["beams"] = beams
    if any(len(request) > 5 and request[5] is not None for request in requests):
        arguments["prefix_tokens"] = draw(st.sampled_from([4, 1, 7]))
        if policy.takes("pin_prefixes"):
            arguments["pin_prefixes"] = draw(st.booleans())
    return arguments


@st.composite
def _requests(
    draw: st.DrawFn, sizes: list[tuple[int, int, int]], width: int, *, shares: bool, in_step: bool
) -> list[tuple[Any, ...]]:
    """Draw requests of ``width`` sequences, which end together if they are ``in_step``."""
    at, requests = 0, []
    groups = st.sampled_from([None, 0, 0, 1]) if shares and draw(st.booleans()) else st.none()
    for gap, prompt, output in sizes:
        at += gap
        outputs = output if in_step or draw(st.booleans()) else tuple(max(output - 4 * way, 1) for way in range(width))
        requests.append((at, prompt, outputs, width, draw(st.sampled_from([None, None, 1, 5])), draw(groups)))
    return requests


_SIZES = st.tuples(
    st.sampled_from([0, 0, 0, 3, 9, 20, 200]), st.integers(1, 16), st.sampled_from([5, 9, 1, 2, 3, 13, 20])
)
