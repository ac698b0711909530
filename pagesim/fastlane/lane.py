"""When the loop may run, and what happens around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pagesim.allocators.base import counts_blocks
from pagesim.backend import Backend, Tariff, tariff_of
from pagesim.fastlane import exchange
from pagesim.fastlane.arrivals import NEVER, Arrivals
from pagesim.fastlane.loop import drive
from pagesim.fastlane.state import Lane
from pagesim.promises import says
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Scheduler
from pagesim.sequence import Request
from pagesim.sources import Numbered

_METHODS: Final = ("__init__", "plan", "schedule", "commit", "complete", "add", "make_memory")


def obstacle(scheduler: Scheduler, backend: Backend, source: object, recorder: Recorder) -> str:
    """Return what keeps a run out of the fast lane, as a clause; an empty text if nothing does."""
    policy, allocator = type(scheduler).__name__, scheduler.allocator
    name = type(allocator).__name__
    if not says(scheduler, "walk", *_METHODS):
        return f"{policy} does not say `walk`"
    if not isinstance(source, Numbered):
        return f"{type(source).__name__} does not number its requests"
    if source.obstacle:
        return source.obstacle
    if tariff_of(backend) is None:
        return f"{type(backend).__name__} does not say `tariff`"
    if recorder.watches_pool:
        return "the pool is looked at block by block"
    if not scheduler.queues.memory.is_bulk:
        return f"{name} does not say `bulk`, so it is asked before every token"
    if source.num_sequences > 1:
        if not (counts_blocks(allocator) and hasattr(allocator, "fork")):
            return f"{name} does not say `counts_blocks`, and requests have several sequences"
        if source.num_sequences > scheduler.limits.max_num_seqs:
            return "a request needs more seats than there are"
    return ""


class FastLane:
    """Serves a run as long as numbers suffice.

    Args:
        scheduler, source, recorder: of a run without an ``obstacle``.
        tariff: of its backend.
        max_model_len, truncate, horizon, watch: as the engine takes them.

    Attributes:
        num_iterations: how many the loop has served.
    """

    FIRST_PAUSE: Final = 8  # iterations
    LONGEST_PAUSE: Final = 4096

    def __init__(
        self,
        scheduler: Scheduler,
        tariff: Tariff,
        source: Numbered,
        recorder: Recorder,
        *,
        max_model_len: int,
        truncate: bool,
        horizon: int | None,
        watch: Callable[[int, int], None] | None = None,
    ) -> None:
        queues = scheduler.queues
        self._arrivals = Arrivals(source, max_model_len, truncate=truncate, can_fork=queues.memory.can_fork)
        self._lane = Lane(
            scheduler,
            recorder,
            tariff,
            self._arrivals,
            counts_blocks=counts_blocks(scheduler.allocator),
            num_sequences=source.num_sequences,
            horizon=NEVER if horizon is None else horizon,
            watch=watch,
        )
        queues.waiting.make = self._arrivals.make
        self._journal = scheduler.journal
        self._scheduler = scheduler
        self._source = source
        self._pause = self.FIRST_PAUSE
        self._not_before = 0
        self.num_iterations = 0

    def may_enter(self, pending: Request | None) -> bool:
        """Return whether the loop can go on now, and whether it is worth it."""
        journal = self._journal
        if journal.iterations < self._not_before:
            return False
        if not self._scheduler.has_work and pending is None:
            return False
        return exchange.can_enter(self._lane)

    def run(self, now: int, pending: Request | None) -> tuple[int, bool]:
        """Serve from ``now`` on; ``pending`` arrives next.

        Returns the time when somebody else has to decide, or the horizon and True. ``source.position`` says then
        which request comes next.
        """
        lane, before = self._lane, self._journal.iterations
        exchange.enter(lane, now, len(self._source) if pending is None else pending.id)
        time = drive(lane, now)
        exchange.leave(lane, time)
        self._source.position = lane.coming
        # Going in and out costs as much as some iterations of the batch: if little was won, wait longer.
        served = self._journal.iterations - before
        self.num_iterations += served
        self._pause = self.FIRST_PAUSE if served > 8 * self._pause else min(2 * self._pause, self.LONGEST_PAUSE)
        self._not_before = self._journal.iterations + self._pause
        return time, lane.is_cut_off
