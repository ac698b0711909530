"""The life of one request: when it arrived, why it waited, who preempted it, when it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from pagesim.backend import Step, StepResult
from pagesim.engine import Engine
from pagesim.errors import ConfigError, InvariantError
from pagesim.explain import words
from pagesim.explain.follow import Needs
from pagesim.explain.watch import Hold, watch
from pagesim.sequence import Request, SequenceStatus
from pagesim.units import format_time


@dataclass(frozen=True, slots=True)
class Moment:
    """Something in the life of a request.

    Attributes:
        kind: ``arrives``, ``waits``, ``runs``, ``first_token``, ``preempted``, ``swapped``, ``back``,
            ``finished``, ``refused`` or ``unfinished``.
        time: tick; ``until``: the tick at which a state ends, None for an instant.
        step: iteration.
        text: the sentence.
    """

    kind: str
    time: int
    until: int | None
    step: int
    text: str


@dataclass(frozen=True, slots=True)
class Life:
    """What happened to one request under one allocator.

    Attributes:
        row: of the experiment, or the allocator's name.
        request: its number.
        moments: in the order of time.
        summary: (name, value) for people.
    """

    row: str
    request: int
    moments: tuple[Moment, ...]
    summary: tuple[tuple[str, str], ...]


class _Ended(Exception):  # noqa: N818 (a signal, no error)
    """The request has ended: the rest of the run is of no interest."""


class Biographer:
    """Watches one request of an engine that has not begun.

    Args:
        engine: whose ``on_step`` it takes.
        identifier: of the request.
        needs: how many blocks a request needs.
        arrival: tick before which it is not to be looked for.
        clock: how ticks are told.
    """

    def __init__(
        self, engine: Engine, identifier: int, needs: Needs, arrival: int = 0, clock: Callable[[int], str] = format_time
    ) -> None:
        self.engine = engine
        self.identifier = identifier
        self.arrival = arrival
        self.clock = clock
        self.moments: list[Moment] = []
        self._needs = needs
        self._notes = watch(engine.scheduler)
        self._request: Request | None = None
        self._ended_at = 0
        self._state: tuple[str, object] = ("", None)
        self._record_end = engine.journal.ended
        engine.journal.ended = self._note_end
        engine.on_step = self.look

    def look(self, step: Step, result: StepResult, now: int) -> None:
        """Note what has changed for the request."""
        request = self._request or self._find()
        if request is not None:
            self._first_token(request)
            if request.finished_at is not None or request.status is SequenceStatus.REFUSED:
                raise _Ended
            self._taken(request, now)
            self._where(request, step, now)
        self._notes.clear()

    def write(self, row: str) -> Life:
        """Return its life.

        Raises ConfigError if it never arrived.
        """
        request = self._request
        if request is None:
            raise ConfigError(f"request {self.identifier} never arrives under {row}")
        self._first_token(request)
        if request.status is SequenceStatus.REFUSED:
            self._say("refused", self._ended_at, f"is refused: {request.reason}")
        elif request.finished_at is not None:
            self._say("finished", request.finished_at, "has all of its tokens")
        else:
            self._say("unfinished", self.engine.now, "has not ended when the run is cut off")
        return Life(row, request.id, tuple(self._with_ends()), tuple(_summary(request, self.clock)))

    def _note_end(self, request: Request) -> None:
        self._record_end(request)
        if request.id == self.identifier:
            if self._request is None:
                self._meet(request)
            self._ended_at = self.engine.now

    # Where it is

    def _find(self) -> Request | None:
        """Look for the request where one is that has arrived since the last step, or has been let in by it."""
        scheduler = self.engine.scheduler
        if self.engine.now < self.arrival:
            return None
        for request in chain(reversed(scheduler.waiting), scheduler.running):
            if request.id == self.identifier:
                self._meet(request)
                return request
        return None

    def _meet(self, request: Request) -> None:
        self._request = request
        self._say("arrives", request.arrival, f"arrives: {words.length(request)}")

    def _first_token(self, request: Request) -> None:
        if request.first_token_at is not None and all(moment.kind != "first_token" for moment in self.moments):
            at = request.first_token_at
            self._say("first_token", at, f"has its first token, {self.clock(at - request.arrival)} after it arrived")

    def _taken(self, request: Request, now: int) -> None:
        size = self.engine.scheduler.pool.block_size
        for taken in self._notes.taken:
            if taken.victim is request:
                kind = "swapped" if request.status is SequenceStatus.SWAPPED else "preempted"
                self._say(kind, now, words.preempted(taken, size))
                self._state = ("", None)
            elif taken.asker is request:
                self._say("takes", now, words.preempted(taken, size))

    def _where(self, request: Request, step: Step, now: int) -> None:
        scheduler = self.engine.scheduler
        if request.status is SequenceStatus.RUNNING:
            if self._state[0] != "runs":
                again = (
                    "comes back" if request.num_preemptions_recompute or request.num_preemptions_swap else "is admitted"
                )
                table = request.sequences[0].block_table
                held = words.count(len(table), words.noun_of(scheduler.pool.block_size))
                others = words.count(len(scheduler.running) - 1, "other request")
                self._enter(("runs", None), now, f"{again}, holds {held} and runs beside {others}")
            return
        line = scheduler.swapped if request.status is SequenceStatus.SWAPPED else scheduler.waiting
        queue = "swapped" if request.status is SequenceStatus.SWAPPED else "waiting"
        hold = self._notes.holds.get(queue)
        if line and line[0] is request:
            if hold is not None:
                self._enter(("first", _cause(hold)), now, self._why(hold, step))
            return
        ahead = _index(line, request)
        text = f"waits behind {words.count(ahead, 'request')}"
        if hold is not None:
            text += f"; the first of them: {self._why(hold, step)}"
        self._enter(("behind", None if hold is None else _cause(hold)), now, text)

    def _why(self, hold: Hold, step: Step) -> str:
        scheduler = self.engine.scheduler
        return words.waits(
            hold,
            needs=self._needs(hold.request),
            block_size=scheduler.pool.block_size,
            limits=scheduler.limits,
            tokens_left=scheduler.limits.max_num_batched_tokens - step.num_tokens,
            taken=self._notes.taken,
        )

    # What is written

    def _enter(self, state: tuple[str, object], now: int, text: str) -> None:
        if state != self._state:
            self._state = state
            self._say("runs" if state[0] == "runs" else "waits", now, text)

    def _say(self, kind: str, now: int, text: str) -> None:
        self.moments.append(Moment(kind, now, None, self.engine.journal.iterations, text))

    def _with_ends(self) -> Iterator[Moment]:
        """Give each state the instant at which another one, or an end, follows it."""
        states = {"waits", "runs", "preempted", "swapped", "finished", "refused", "unfinished"}
        ordered = sorted(self.moments, key=lambda moment: moment.time)
        for place, moment in enumerate(ordered):
            if moment.kind not in ("waits", "runs"):
                yield moment
                continue
            end = next((later.time for later in ordered[place + 1 :] if later.kind in states), None)
            yield Moment(moment.kind, moment.time, end, moment.step, moment.text)


def live(engine: Engine, biographer: Biographer, row: str) -> Life:
    """Run an engine until the request has ended, and return its life.

    Raises ConfigError if it never arrives, InvariantError where the allocator breaks a rule.
    """
    with contextlib.suppress(_Ended):
        engine.run()
    return biographer.write(row)


def _cause(hold: Hold) -> tuple[object, ...]:
    """What makes one reason to wait another: numbers that change with every step do not."""
    return hold.reason, hold.by_allocator, hold.num_swapped > 0


def _index(line: Iterable[Request], request: Request) -> int:
    for place, other in enumerate(line):
        if other is request:
            return place
    raise InvariantError(f"request {request.id} is {request.status.value} but stands in no queue")


def _summary(request: Request, clock: Callable[[int], str]) -> Iterator[tuple[str, str]]:
    arrival = request.arrival
    yield "prompt and output", f"{request.prompt_tokens:,} and {request.output_tokens:,} tokens"
    if request.admitted_at is not None:
        yield "waited for admission", clock(request.admitted_at - arrival)
    if request.first_token_at is not None:
        yield "time to first token", clock(request.first_token_at - arrival)
        if request.last_token_at is not None and request.output_tokens > 1 and request.finished_at is not None:
            each = (request.last_token_at - request.first_token_at) // (request.output_tokens - 1)
            yield "time per output token", clock(each)
    if request.finished_at is not None:
        yield "end to end", clock(request.finished_at - arrival)
    kinds = {
        "to be computed again": request.num_preemptions_recompute,
        "by a swap": request.num_preemptions_swap,
    }
    times = [f"{words.count(number, 'time')} {how}" for how, number in kinds.items() if number]
    if times:
        yield "preempted", " and ".join(times)
    if request.num_recomputed:
        yield "computed again", words.count(request.num_recomputed, "token")
