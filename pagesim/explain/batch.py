"""Small batches that are easy to follow: a few requests, a small pool, one time unit a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pagesim import plugins
from pagesim.account import Account
from pagesim.allocators.base import Allocator, Forks, Swaps
from pagesim.backend import FakeBackend
from pagesim.beams import SeededBeams
from pagesim.blocks import BlockPool
from pagesim.engine import Engine
from pagesim.errors import ConfigError, PluginError
from pagesim.explain import words
from pagesim.explain.follow import Needs, follow
from pagesim.explain.frames import Walk
from pagesim.explain.life import Biographer, Life, live
from pagesim.explain.observer import Observer, Window
from pagesim.journal import Journal
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Limits, Scheduler
from pagesim.sequence import Request
from pagesim.units import TICKS_PER_SECOND

STEP: Final = TICKS_PER_SECOND
"""Ticks of a step of a small batch."""

SHORT: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "contiguous": ("contiguous", {"reserve": "max", "placement": "first_fit"}),
    "max": ("contiguous", {"reserve": "max", "placement": "buddy"}),
    "pow2": ("contiguous", {"reserve": "pow2", "placement": "buddy"}),
    "oracle": ("contiguous", {"reserve": "oracle", "placement": "buddy"}),
}
"""Names that stand for a policy with options."""


@dataclass(frozen=True)
class Batch:
    """What a small case consists of. Sizes in tokens, slots or blocks.

    Attributes:
        prompts, outputs: lengths, one of each a request.
        arrivals: the step at which each request arrives.
        block_size: of policies that have blocks.
        num_slots: of the pool; all allocators have the same.
        max_model_len: the longest that a sequence may become.
        watermark: blocks that an admission leaves free; ignored by policies without one.
        host_slots: of the host's pool, for swapping.
        num_samples: sequences of a request; ``beam_width``: of a beam search, 0 for samples.
        prefix_tokens: tokens at the start of every prompt that all requests share.
        scheduler: the policy.
        max_num_seqs, max_num_batched_tokens: limits of a step.
        seed: of the beams.
    """

    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    arrivals: tuple[int, ...]
    block_size: int = 4
    num_slots: int = 48
    max_model_len: int = 24
    watermark: int = 1
    host_slots: int = 0
    num_samples: int = 1
    beam_width: int = 0
    prefix_tokens: int = 0
    scheduler: str = "chunked"
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 256
    seed: int = 0

    def requests(self, *, oracle: bool) -> list[Request]:
        """Return the requests, in the order of arrival."""
        beams = SeededBeams(self.seed, divergence=float(self.max_model_len)) if self.beam_width else None
        found = []
        for number, (prompt, output, arrival) in enumerate(zip(self.prompts, self.outputs, self.arrivals, strict=True)):
            request = Request(number, arrival * STEP, prompt, output, self.beam_width or self.num_samples)
            request.beams, request.oracle = beams, oracle
            if self.prefix_tokens:
                request.prefix_group, request.prefix_tokens = 0, self.prefix_tokens
            found.append(request)
        return found


class _Requests:
    """A source of requests that are known beforehand."""

    def __init__(self, requests: list[Request]) -> None:
        self._requests = requests

    def initial(self) -> Iterator[Request]:
        """Yield them."""
        yield from self._requests

    def after(self, request: Request, now: int) -> Request | None:
        """Nothing follows from a request's end."""
        return None


def walk(batch: Batch, policy: str, base_dir: Path, window: Window | None = None) -> Walk:
    """Serve a small batch with one allocator, and return a frame of every step.

    Args:
        batch: the case.
        policy: an allocator's name, one of ``SHORT``, ``module:Class`` or ``file.py:Class``.
        base_dir: where a user's file is looked up.
        window: the steps to keep; all by default.

    Raises:
        ConfigError: where the allocator cannot be had, cannot serve the case, or the window lies behind the end.
        InvariantError: where it breaks a rule.
    """
    engine, needs = _server(batch, policy, base_dir)
    observer = Observer(engine, window or Window(), needs)
    found = follow(engine, observer, policy, type(engine.scheduler.allocator).__name__)
    if not found.frames and found.num_steps:
        raise ConfigError(f"--window: {policy} has no step there; it needs {found.num_steps} steps")
    return found


def life(batch: Batch, policy: str, base_dir: Path, identifier: int) -> Life:
    """Serve a small batch until a request has ended, and return what happened to it; arguments as ``walk``.

    Raises ConfigError if there is no such request.
    """
    if not 0 <= identifier < len(batch.prompts):
        raise ConfigError(f"--request {identifier}: the batch has requests 0 to {len(batch.prompts) - 1}")
    engine, needs = _server(batch, policy, base_dir)
    return live(engine, Biographer(engine, identifier, needs, clock=steps), policy)


def steps(ticks: int) -> str:
    """Return a time as steps of a small batch."""
    return words.count(ticks // STEP, "step")


def _server(batch: Batch, policy: str, base_dir: Path) -> tuple[Engine, Needs]:
    name, options = SHORT.get(policy, (policy, {}))
    cls = plugins.resolve("allocator", name, base_dir)
    if plugins.accepts(cls, "max_model_len"):
        options = {"max_model_len": batch.max_model_len, **options}
    has_blocks = getattr(cls, "default_block_size", batch.block_size) != 1
    size = batch.block_size if has_blocks else 1
    watermark = batch.watermark if getattr(cls, "default_watermark", None) != 0 else 0

    def pool() -> BlockPool:
        host = BlockPool(batch.host_slots // size, size) if batch.host_slots >= size else None
        return BlockPool(batch.num_slots // size, size, watermark=watermark, host=host)

    def twin() -> Allocator:
        made: Allocator = cls(pool(), **options)
        return made

    allocator: Allocator = plugins.build(cls, pool(), **options)
    if not isinstance(getattr(allocator, "pool", None), BlockPool):
        raise PluginError(f"{cls.__name__} must keep the pool that it is given as `self.pool`")
    if batch.beam_width and not isinstance(allocator, Forks):
        raise ConfigError(f"beams need an allocator that forks; {policy} does not")
    journal = Journal()
    account = Account(allocator.pool, batch.num_slots, getattr(allocator, "prefixes", None))
    scheduler: Scheduler = plugins.build(
        plugins.resolve("scheduler", batch.scheduler, base_dir),
        allocator,
        account,
        journal,
        Limits(batch.max_num_seqs, batch.max_num_batched_tokens, batch.max_model_len),
        plugins.build(plugins.resolve("victim", "youngest", base_dir)),
        twin=twin,
        preemption="swap" if isinstance(allocator, Swaps) and allocator.pool.host is not None else "recompute",
    )
    recorder = Recorder(account, journal, scheduler, allocator)
    requests = batch.requests(oracle=bool(getattr(allocator, "oracle", False)))
    engine = Engine(
        scheduler, FakeBackend(STEP, keep=False), _Requests(requests), recorder, max_model_len=batch.max_model_len
    )
    return engine, Needs(allocator, twin)
