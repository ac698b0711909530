"""Runs an engine under observation, and measures what a request needs on an empty pool."""

from __future__ import annotations

from collections.abc import Callable

from pagesim.allocators.base import Allocator
from pagesim.engine import Engine
from pagesim.explain.frames import Walk
from pagesim.explain.observer import Observer, WindowEnded
from pagesim.sequence import Request, SequenceStatus


class Needs:
    """How many blocks a request needs: an empty twin of the allocator is asked, whatever the policy.

    Args:
        allocator: the one that refused.
        twin: makes the same one over an empty pool.
    """

    def __init__(self, allocator: Allocator, twin: Callable[[], Allocator]) -> None:
        self._allocator = allocator
        self._twin = twin
        self._answers: dict[tuple[int, ...], int | None] = {}

    def __call__(self, request: Request) -> int | None:
        """Return the blocks that have to be free; None if an empty pool refuses it, or the policy raises."""
        if request.status is SequenceStatus.SWAPPED:
            homes = {home for sequence in request.sequences for home in sequence.host_table}
            if not hasattr(self._allocator, "largest_free_run"):
                return len(homes)
            return self._measured([(s.num_stored, s.num_output, s.estimate) for s in request.live_sequences], request)
        sequences = request.live_sequences if request.forked else request.sequences[:1]
        matched = getattr(self._allocator, "match", None)
        shared = sum(matched(s) for s in sequences) if matched and request.prefix_group is not None else 0
        need = self._measured([(s.num_prefill, s.num_output, s.estimate) for s in sequences], request)
        return None if need is None else need - shared // self._allocator.pool.block_size

    def _measured(self, sizes: list[tuple[int, int, int]], request: Request) -> int | None:
        key = (request.prompt_tokens, *(number for size in sizes for number in size))
        if key not in self._answers:
            self._answers[key] = self._ask(sizes, request)
        return self._answers[key]

    def _ask(self, sizes: list[tuple[int, int, int]], request: Request) -> int | None:
        twin = self._twin()
        for num_tokens, num_output, estimate in sizes:
            probe = Request(request.id, request.arrival, request.prompt_tokens, num_output, estimate=estimate)
            probe.oracle = request.oracle
            try:
                if twin.allocate(probe.sequences[0], num_tokens) is None:
                    return None
            except Exception:  # a user's policy may raise on a probe what it does not raise in the run
                return None
        return twin.pool.num_held


def follow(engine: Engine, observer: Observer, name: str, policy: str) -> Walk:
    """Run an engine as far as its observer wants, and return what it saw.

    Raises InvariantError where the allocator breaks a rule.
    """
    is_complete = True
    try:
        engine.run()
    except WindowEnded:
        is_complete = False
    observer.finish()
    scheduler = engine.scheduler
    return Walk(
        name=name,
        policy=policy,
        block_size=scheduler.pool.block_size,
        num_slots=engine.recorder.account.num_slots,
        is_contiguous=bool(getattr(scheduler.allocator, "contiguous", False)),
        frames=tuple(observer.frames),
        ending=observer.ending,
        num_steps=engine.journal.iterations,
        end=engine.now,
        is_complete=is_complete,
        path=engine.fastest_path,
    )
