"""The small batches that ``explain`` knows: each shows one thing, at whatever sizes are asked for."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass
from typing import Final

from pagesim.errors import ConfigError
from pagesim.explain.batch import Batch

MAX_SLOTS: Final = 65_536
MAX_STEPS: Final = 400
"""Steps of a small batch of which frames are kept where no window is asked for."""


@dataclass(frozen=True)
class Case:
    """What a case is about.

    Attributes:
        shows: the sentence above it.
        rows: the allocators that are shown side by side.
        num_requests: of the batch.
    """

    shows: str
    rows: tuple[str, ...]
    num_requests: int


CASES: Final[dict[str, Case]] = {
    "batch": Case(
        "A contiguous allocator reserves room for the longest sequence; a paged one takes blocks when it needs them.",
        ("contiguous", "paged"),
        5,
    ),
    "fork": Case(
        "Samples of one prompt: without sharing each has a copy; with copy-on-write only the block that is written to.",
        ("paged", "copy_on_write"),
        1,
    ),
    "beam": Case(
        "Beam search: beams die and are replaced by continuations of others, which share their blocks.",
        ("paged", "copy_on_write"),
        1,
    ),
    "swap": Case(
        "Memory runs out: the youngest request is computed again later, or moved to the host and back.",
        ("copy_on_write", "swapping"),
        4,
    ),
    "prefix": Case(
        "Prompts that begin alike: with sharing, the blocks of the prefix are stored and computed once.",
        ("paged", "copy_on_write"),
        4,
    ),
}


@dataclass(frozen=True)
class Sizes:
    """What a user may say about a case; None takes what suits it.

    Attributes:
        prompts, outputs: lengths in tokens; fewer than there are requests begin again from the first.
        block_size: in tokens.
        num_requests, num_blocks, watermark, num_samples, max_model_len, prefix_tokens: see ``Batch``.
        scheduler: the policy.
    """

    prompts: tuple[int, ...] = (10,)
    outputs: tuple[int, ...] = (6,)
    block_size: int = 4
    num_requests: int | None = None
    num_blocks: int | None = None
    watermark: int | None = None
    num_samples: int | None = None
    max_model_len: int | None = None
    prefix_tokens: int | None = None
    scheduler: str = "chunked"


def make(name: str, sizes: Sizes) -> Batch:
    """Return a case at the sizes that are asked for.

    Raises ConfigError where they do not go together.
    """
    case, size = CASES[name], sizes.block_size
    count = sizes.num_requests or max(case.num_requests, len(sizes.prompts), len(sizes.outputs))
    prompts = tuple(sizes.prompts[number % len(sizes.prompts)] for number in range(count))
    outputs = tuple(sizes.outputs[number % len(sizes.outputs)] for number in range(count))
    longest = max(prompt + output for prompt, output in zip(prompts, outputs, strict=True))
    max_model_len = sizes.max_model_len or _up(longest * 3 // 2, size)
    if longest > max_model_len:
        raise ConfigError(
            f"--max-model-len {max_model_len}: the longest request has {longest} tokens, and would be refused"
        )
    final = -(-(longest - 1) // size)  # blocks of the longest sequence at its end
    samples = sizes.num_samples or (3 if name in ("fork", "beam") else 1)
    num_blocks = sizes.num_blocks
    if num_blocks is None:
        num_blocks = {
            "fork": (samples + 1) * final,
            "beam": (samples + 1) * final,
            "swap": max(3 * final - 2, final + 1),
        }.get(name, 2 * max_model_len // size)
    if num_blocks * size > MAX_SLOTS:
        raise ConfigError(
            f"the pool has {num_blocks * size:,} slots; a small batch has {MAX_SLOTS:,} at most: "
            "take shorter prompts and outputs, or explain an experiment"
        )
    prefix = 0
    if name == "prefix":
        prefix = min(prompts) - 1 if sizes.prefix_tokens is None else sizes.prefix_tokens
        if sizes.prefix_tokens is None and prefix >= size:
            prefix -= prefix % size
        if prefix >= min(prompts):
            raise ConfigError(f"--prefix {prefix}: the shortest prompt has {min(prompts)} tokens, the prefix has fewer")
    watermark = sizes.watermark if sizes.watermark is not None else int(num_blocks > 2 * samples)
    return Batch(
        prompts=prompts,
        outputs=outputs,
        arrivals=tuple(range(count)) if name == "prefix" else (0,) * count,
        block_size=size,
        num_slots=num_blocks * size,
        max_model_len=max_model_len,
        watermark=watermark,
        host_slots=num_blocks * size if name == "swap" else 0,
        num_samples=1 if name == "beam" else samples,
        beam_width=samples if name == "beam" else 0,
        prefix_tokens=prefix,
        scheduler=sizes.scheduler,
        max_num_seqs=max(16, count * samples),
        max_num_batched_tokens=max(256, count * longest * samples),
    )


def headings(name: str, batch: Batch) -> list[str]:
    """Return what stands above a case: what it shows and what it consists of."""
    count = len(batch.prompts)
    kind = f" with {batch.beam_width} beams" if batch.beam_width else ""
    kind = f" with {batch.num_samples} samples" if batch.num_samples > 1 else kind
    text = (
        f"{count} {'request' if count == 1 else 'requests'}{kind}, prompt {_lengths(batch.prompts)} and output "
        f"{_lengths(batch.outputs)} tokens, {batch.num_slots} slots of memory, {batch.num_slots // batch.block_size} "
        f"blocks of {batch.block_size}; no sequence is longer than {batch.max_model_len} tokens."
    )
    if batch.watermark:
        text += f" The watermark keeps {batch.watermark} of the blocks free when a request is admitted."
    if batch.prefix_tokens:
        text += f" All prompts begin with the same {batch.prefix_tokens} tokens."
    if batch.host_slots:
        text += f" The host has room for {batch.host_slots // batch.block_size} blocks."
    return [CASES[name].shows, text, "The last token of an output is never stored: nothing comes after it."]


def lengths(option: str, text: str) -> tuple[int, ...]:
    """Return the numbers of ``10`` or ``10,7,5``. Raises ConfigError for anything else."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise ConfigError(f"{option} {text}: write a number of tokens from 1, or several: 10,7,5")
    return found


def _lengths(values: Listing[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
