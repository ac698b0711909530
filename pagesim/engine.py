"""The event loop: requests arrive, steps are scheduled and executed, time passes. Imports simpy, alone.

    serve:  step   = scheduler.schedule(now)
            result = backend.execute(step)
            wait for result.duration
            scheduler.commit(step, now)

An arrival at the very instant at which a step ends is visible to the next schedule: arrivals are
urgent events, the ends of steps are normal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Protocol, cast

import simpy
from simpy.events import NORMAL, URGENT, Event, EventPriority

from pagesim.allocators.base import counts_blocks
from pagesim.backend import Backend, Step, StepResult, Tariff, tariff_of
from pagesim.errors import InvariantError
from pagesim.fastlane import FastLane, obstacle
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Scheduler
from pagesim.sequence import Request
from pagesim.sources import Numbered


class Source(Protocol):
    """Where requests come from."""

    def initial(self) -> Iterator[Request]:
        """Yield requests whose arrival is known beforehand, in the order of arrival."""
        ...

    def after(self, request: Request, now: int) -> Request | None:
        """Return the request that ``request``'s end at ``now`` brings about, with its arrival time."""
        ...


class Engine:
    """Runs one scheduler over one source of requests.

    Args:
        scheduler: with its allocator, account and journal.
        backend: says how long a step takes.
        source: of requests.
        recorder: is told every state.
        max_model_len: longer requests are refused on arrival, or cut where ``truncate`` says so.
        horizon: tick at which the run is cut off, before anything that happens at it. Clients of a closed loop
            that are thinking then have not sent their request, so it has no row.
        watch: called now and then with (ended requests, now), for a progress bar.
        on_step: called with (step, result, now) when a step begins, to look at it; it must change nothing.
        fast_forward: whether runs are served by numbers where they can be, and steps that are the same again taken
            without walking the queues. Changes nothing but the speed; with ``on_step`` every step is taken one by one.
    """

    WATCH_EVERY = 512  # iterations
    MAX_SKIP = 64  # iterations

    def __init__(
        self,
        scheduler: Scheduler,
        backend: Backend,
        source: Source,
        recorder: Recorder,
        *,
        max_model_len: int,
        truncate: bool = False,
        horizon: int | None = None,
        watch: Callable[[int, int], None] | None = None,
        on_step: Callable[[Step, StepResult, int], None] | None = None,
        fast_forward: bool = True,
    ) -> None:
        self.scheduler = scheduler
        self.backend = backend
        self.source = source
        self.recorder = recorder
        self.journal = scheduler.journal
        self.max_model_len = max_model_len
        self.truncate = truncate
        self.horizon = horizon
        self.watch = watch
        self.on_step = on_step
        self.fast_forward = fast_forward
        self.unfinished: list[Request] = []
        self._tariff: Tariff | None = tariff_of(backend)
        self._env = simpy.Environment(initial_time=0)
        self._step: Step | None = None  # in flight
        self._wake: Event | None = None
        self._pending: Request | None = None
        self._arrival: Event | None = None
        self._lane: FastLane | None = None
        self._in_lane_since: int | None = None
        self._incoming = source.initial()
        self._record_end = self.journal.ended
        self.journal.ended = self._ended

    @property
    def now(self) -> int:
        """The simulated time, in ticks."""
        return cast(int, self._env.now)

    @property
    def path(self) -> str:
        """How steps are taken in this run, and what keeps them from being taken faster; the figures are the same."""
        if self.on_step is not None:
            return "one by one: every step is looked at"
        if not self.fast_forward:
            return "one by one: fast_forward is off"
        if self._lane is not None and self.journal.iterations:
            return f"{self._lane.num_iterations / self.journal.iterations:.2%} of the steps {self.fastest_path}"
        return self.fastest_path

    @property
    def fastest_path(self) -> str:
        """The same for a run in which nobody looks at the steps."""
        scheduler, memory = self.scheduler, self.scheduler.queues.memory
        policy = type(scheduler.allocator).__name__
        why_not = self.obstacle
        if not why_not:
            kept = "blocks counted" if counts_blocks(scheduler.allocator) else f"{policy} asked for whole requests"
            return f"by numbers: {kept}; the others go through the queues"
        if not scheduler.repeats:
            return f"one by one: {type(scheduler).__name__} does not say `repeats`"
        if not memory.is_bulk:
            return f"one by one: {policy} does not say `bulk`, so it is asked before every token"
        growth = "blocks counted" if memory.grows_by_block else f"{policy} asked where a table is full"
        price = "many priced at once" if self._tariff is not None else f"{type(self.backend).__name__} asked for each"
        return f"equal steps skip the queues: {growth}, {price}; not by numbers: {why_not}"

    def run(self) -> None:
        """Run until every request has ended, or to the horizon.

        Raises InvariantError if the engine is idle while something waits.
        """
        self._build_lane()
        self._expect_next()
        self._wake_up()
        if self.horizon is None:
            self._env.run()
        else:
            self._at(self.horizon, URGENT, lambda event: None)
            self._env.run(until=self.horizon)
            self.recorder.advance(self.horizon)
            self._cut_off()
        self.recorder.close_window()
        release_pins = getattr(self.scheduler.allocator, "release_pins", None)
        if release_pins is not None:
            release_pins()
        if not self.unfinished and self.scheduler.pool.num_held:
            raise InvariantError(f"INV-11: blocks are held after the last request has ended\n{self.picture()}")

    @property
    def obstacle(self) -> str:
        """What keeps a run in which nobody looks at the steps out of the fast lane; empty if nothing does."""
        return obstacle(self.scheduler, self.backend, self.source, self.recorder)

    def _build_lane(self) -> None:
        if self.on_step is not None or not self.fast_forward or self.obstacle:
            return
        assert self._tariff is not None
        assert isinstance(self.source, Numbered)
        self._lane = FastLane(
            self.scheduler,
            self._tariff,
            self.source,
            self.recorder,
            max_model_len=self.max_model_len,
            truncate=self.truncate,
            horizon=self.horizon,
            watch=self.watch,
        )

    # Arrivals

    def _expect_next(self) -> None:
        """Take the next request out of the source, and be called when it arrives, if the horizon lets it."""
        self._pending = next(self._incoming, None)
        self._await_pending()

    def _await_pending(self) -> None:
        if self._pending is not None and (self.horizon is None or self._pending.arrival < self.horizon):
            self._arrival = self._at(self._pending.arrival, URGENT, self._arrive)

    def _arrive(self, event: Event) -> None:
        if event is not self._arrival:  # the fast lane has served it
            return
        now = self.now
        self.recorder.advance(now)
        while self._pending is not None and self._pending.arrival == now:
            self._receive(self._pending)
            self._pending = next(self._incoming, None)
        self._await_pending()
        self.recorder.queued()
        self._wake_up()

    def _receive(self, request: Request) -> None:
        self.journal.arrived += 1
        if self.truncate:
            request.truncate(self.max_model_len)
        if reason := request.too_long(self.max_model_len):
            self.scheduler.queues.refuse(request, reason)
        else:
            self.scheduler.add(request)

    def _ended(self, request: Request) -> None:
        now = self.now
        self._record_end(request)
        follower = self.source.after(request, now)
        if follower is not None:
            self._at(max(follower.arrival, now), URGENT, lambda event: self._arrive_late(follower))

    def _arrive_late(self, request: Request) -> None:
        self.recorder.advance(self.now)
        self._receive(request)
        self.recorder.queued()
        self._wake_up()

    # Steps

    def _begin(self, event: Event) -> None:
        if event is self._wake:  # an arrival may have woken the engine before the time that a policy named
            self._wake = None
            self._begin_step()

    def _begin_step(self) -> None:
        """Schedule and execute one step; the next event is its end."""
        now, scheduler = self.now, self.scheduler
        self.recorder.advance(now)
        if self._lane is not None and self._take_lane(now):
            return
        step = scheduler.schedule(now)
        if step.is_empty:
            self._idle(step, now)
            return
        result = self.backend.execute(step)
        if result.duration < 1:
            raise InvariantError(f"INV-5: {type(self.backend).__name__} says that a step takes {result.duration} ticks")
        self.recorder.observe(idle=False)
        self.recorder.stepped(result)
        self._step = step
        if self.on_step is not None:
            self.on_step(step, result, now)
        elif self.fast_forward and scheduler.may_repeat(step):
            self._repeat(step, result, now + result.duration)
            return
        self._at(now + result.duration, NORMAL, self._end_step)

    def _take_lane(self, now: int) -> bool:
        """Let the fast lane serve as far as it can; False: it cannot now."""
        lane, pending = self._lane, self._pending
        if lane is None or not lane.may_enter(pending):
            return False
        self._arrival = self._pending = None
        self._in_lane_since = now
        time, is_cut_off = lane.run(now, pending)
        self._in_lane_since = None
        self._incoming = self.source.initial()
        self._expect_next()
        if not is_cut_off:
            self._wake = self._at(time, NORMAL, self._begin)
        return True

    def _repeat(self, step: Step, result: StepResult, end: int) -> None:
        """Take the same step again until something else happens; leave the last one in flight.

        Only the decodes' contexts and the blocks that they need change from one to the next, so the queues are
        not walked. Stops before whatever else may happen: an event, or a sequence's end.
        """
        scheduler, recorder, journal = self.scheduler, self.recorder, self.journal
        decoding, account = scheduler.decoding, scheduler.account
        limit = self._env.peek()
        slope = None
        if self._tariff is not None:
            attention = self._tariff.context_token * step.num_decodes
            slope = StepResult(attention, attention=attention)  # each decode's context is one token longer in each step
        may_skip = True
        while end < limit and not decoding.may_end_next:
            if slope is not None and may_skip:
                skipped = self._skip(step, result, slope, limit)
                if skipped is not None:
                    result, end = skipped
                    may_skip = False  # what stopped it stands before the next step
                    continue
            may_skip = True
            recorder.advance(end)
            account.live += step.num_decodes
            journal.output_tokens += step.num_decodes
            journal.iterations += 1
            decoding.tick(end, journal.gaps)
            if not decoding.promise_due(scheduler.queues.memory):
                self._step = None
                self._wake = self._at(end, NORMAL, self._begin)
                return
            recorder.observe_growth()
            step.context_tokens = decoding.context_tokens
            step.table_entries = decoding.num_entries
            result = self.backend.execute(step)
            recorder.stepped(result)
            end += result.duration
        self._at(end, NORMAL, self._end_step)

    def _skip(self, step: Step, result: StepResult, slope: StepResult, limit: float) -> tuple[StepResult, int] | None:
        """Take all steps at once until a sequence is due or ends, or anything else may happen.

        Returns the result of the step that is in flight then, and its end; None if there are fewer than two.
        """
        scheduler, recorder, journal = self.scheduler, self.recorder, self.journal
        first = result.duration
        num_steps = scheduler.decoding.num_quiet(self.MAX_SKIP, recorder.time)
        if num_steps < 2:
            return None
        longest = first + num_steps * slope.duration
        ahead = int(min(limit, recorder.next_mark)) - recorder.time - 1
        num_steps = min(num_steps, ahead // longest)
        if num_steps < 2:
            return None
        recorder.skip(num_steps, first, slope, result, step.num_decodes)
        scheduler.decoding.skip(num_steps, first, slope.duration, journal.gaps)
        num_tokens = num_steps * step.num_decodes
        scheduler.account.live += num_tokens
        journal.output_tokens += num_tokens
        journal.iterations += num_steps
        step.context_tokens = scheduler.decoding.context_tokens
        result = StepResult._make([part + num_steps * added for part, added in zip(result, slope, strict=True)])
        return result, recorder.time + result.duration

    def _end_step(self, event: Event) -> None:
        now, step = self.now, self._step
        if step is None:
            raise InvariantError("INV-5: a step ends that never began")
        self.recorder.advance(now)
        self._step = None
        self.scheduler.commit(step, now)
        if self.watch is not None and not self.journal.iterations % self.WATCH_EVERY:
            self.watch(self.journal.finished + self.journal.refused, now)
        if self._env.peek() <= now:  # clients that answer at once are heard before the next step
            self._wake_up()
        else:
            self._begin_step()

    def _idle(self, step: Step, now: int) -> None:
        """Wait for the next arrival, or for the time that the policy named; anything else is a bug."""
        scheduler = self.scheduler
        self.recorder.observe(idle=True)
        if step.wake_at is not None and step.wake_at > now:
            self._wake = self._at(step.wake_at, NORMAL, self._begin)
        elif scheduler.has_work:
            raise InvariantError(f"INV-8: the engine is idle while requests wait\n{self.picture()}")

    def _wake_up(self) -> None:
        """Begin a step at this instant, unless one is in flight."""
        if self._step is None:
            self._wake = self._at(self.now, NORMAL, self._begin)

    # The end

    def _cut_off(self) -> None:
        scheduler = self.scheduler
        self.unfinished = [*scheduler.waiting, *scheduler.running, *scheduler.swapped]
        self.unfinished.sort(key=lambda request: request.id)
        for request in self.unfinished:
            self._record_end(request)
        while self._pending is not None:
            self._record_end(self._pending)
            self._pending = next(self._incoming, None)

    def picture(self) -> str:
        """Return the queues and the pool as text, for an error message."""
        scheduler, pool = self.scheduler, self.scheduler.pool
        if self._in_lane_since is not None:
            return (
                f"served by numbers since tick {self._in_lane_since}: {self.journal.finished} requests had finished "
                f"by tick {self.recorder.time}; without fast_forward the queues can be seen"
            )
        queues: dict[str, Collection[Request]] = {
            "waiting": list(scheduler.waiting),
            "running": scheduler.running,
            "swapped": scheduler.swapped,
        }
        lines = [
            f"at tick {self._env.now}: {pool.num_held} of {pool.num_blocks} blocks of {pool.block_size} slots held"
        ]
        for name, requests in queues.items():
            lines.append(f"  {name}: {len(requests)}" + "".join(f"\n    {request}" for request in list(requests)[:8]))
        lines.append(f"  admission held by: {scheduler.held}; seats taken: {scheduler.num_seats}")
        return "\n".join(lines)

    def _at(self, tick: int, priority: EventPriority, callback: Callable[[Event], None]) -> Event:
        """Call back at ``tick``. A bare event costs half of what a process and a timeout cost."""
        event = Event(self._env)
        event._ok, event._value = True, None
        if event.callbacks is not None:
            event.callbacks.append(callback)
        self._env.schedule(event, priority, tick - self.now)
        return event
