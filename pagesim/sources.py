"""Turns the chunks of a workload into requests, one at a time: every allocator sees the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from pagesim.sequence import BeamModel, Request
from pagesim.workload import Access, Chunk, Workload

Numbers = tuple[list[int], list[int], list[int]]
"""Arrivals in ticks, prompts and outputs in tokens."""


@runtime_checkable
class Numbered(Protocol):
    """A source of requests that are known beforehand: any of them can be had by its number, and nothing follows.

    Attributes:
        position: the request that comes next.
        window: first and last tick of the measuring window; None: all are measured.
        num_sequences: of each request.
        obstacle: what a request is beside its arrival and its lengths, as a clause; an empty text: nothing.
    """

    position: int
    window: tuple[int, int] | None
    num_sequences: int
    obstacle: str

    def __len__(self) -> int: ...

    def numbers(self, begin: int, end: int) -> Numbers:
        """Return arrivals, prompts and outputs of the requests from ``begin`` up to ``end``."""
        ...

    def make(self, index: int) -> Request:
        """Return request ``index``, as it is when it arrives."""
        ...


class RequestFactory:
    """Makes the i-th request of a workload.

    Args:
        workload: is read a chunk at a time; any request can be had, and the next one soon.
        num_sequences: parallel samples or beams of each request.
        beams: how beams survive; None: the sequences are parallel samples.
        oracle: whether a policy of the run may read the future.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        num_sequences: int = 1,
        beams: BeamModel | None = None,
        oracle: bool = False,
    ) -> None:
        self.workload = workload
        self.beams = beams
        self.num_sequences = num_sequences
        self.oracle = oracle
        self._chunks = Access(workload)

    def __len__(self) -> int:
        return len(self.workload)

    @property
    def obstacle(self) -> str:
        """What tells a request from others beside its arrival and its lengths; an empty text: nothing."""
        if self.beams is not None:
            return "beams survive one token at a time"
        columns = self.workload.column_names
        if "prefix_groups" in columns:
            return "requests share prefixes"
        if "sample_output_tokens" in columns:
            return "a request's sequences have lengths of their own"
        return ""

    def make(self, index: int, arrival: int, *, measured: bool) -> Request:
        """Return request ``index``, arriving at tick ``arrival``."""
        chunk = self._chunks[index]
        place = index - chunk.first
        request = Request(
            index,
            arrival,
            int(chunk.prompt_tokens[place]),
            int(chunk.output_tokens[place]),
            self.num_sequences,
            int(chunk.estimates[place]),
        )
        request.oracle = self.oracle
        request.measured = measured
        request.beams = self.beams
        if chunk.prefix_groups is not None:
            request.prefix_group = int(chunk.prefix_groups[place])
            request.prefix_tokens = self.workload.prefix_tokens
        if chunk.sample_output_tokens is not None:
            request.give_lengths(chunk.sample_output_tokens[place].tolist())
        return request

    def time_of(self, index: int) -> int:
        """Return the arrival of request ``index``; in a closed loop the think time before it."""
        chunk = self._chunks[index]
        times = chunk.think_times if chunk.arrivals is None else chunk.arrivals
        assert times is not None
        return int(times[index - chunk.first])

    def chunks(self, begin: int, end: int) -> Iterator[Chunk]:
        """Yield the requests from ``begin`` up to ``end``."""
        while begin < end:
            chunk = self._chunks[begin]
            until = min(end, chunk.first + len(chunk))
            yield chunk.cut(begin - chunk.first, until - chunk.first)
            begin = until


class OpenSource:
    """Requests arrive whatever the server does.

    Args:
        factory: of the requests.
        window: first and last tick of the measuring window; None: all are measured.

    Attributes:
        position: the request that comes next.
    """

    def __init__(self, factory: RequestFactory, window: tuple[int, int] | None) -> None:
        if factory.workload.is_closed:
            raise ValueError("an open workload has arrival times")
        self.factory = factory
        self.position = 0
        self.num_sequences = factory.num_sequences
        self.obstacle = factory.obstacle
        self.window = window

    def initial(self) -> Iterator[Request]:
        """Yield all requests from ``position`` on."""
        while self.position < len(self.factory):
            self.position += 1
            yield self.make(self.position - 1)

    def __len__(self) -> int:
        return len(self.factory)

    def numbers(self, begin: int, end: int) -> Numbers:
        """Return arrivals, prompts and outputs of the requests from ``begin`` up to ``end``."""
        found: Numbers = [], [], []
        for chunk in self.factory.chunks(begin, end):
            assert chunk.arrivals is not None
            for numbers, column in zip(found, (chunk.arrivals, chunk.prompt_tokens, chunk.output_tokens), strict=True):
                numbers += column.tolist()
        return found

    def make(self, index: int) -> Request:
        """Return request ``index``."""
        arrival = self.factory.time_of(index)
        first, last = self.window or (0, 2**63)
        return self.factory.make(index, arrival, measured=first <= arrival <= last)

    def after(self, request: Request, now: int) -> Request | None:
        """Nothing follows from a request's end."""
        return None


class ClosedSource:
    """Clients that wait for their answer, think, and ask again.

    Args:
        factory: of the requests.
        is_measuring: whether the window is open now.
        on_progress: told how many requests have ended, and whether no request is left to send.
    """

    def __init__(
        self, factory: RequestFactory, is_measuring: Callable[[], bool], on_progress: Callable[[int, bool], None]
    ) -> None:
        if not factory.workload.is_closed:
            raise ValueError("a closed workload has clients")
        self._factory = factory
        self._is_measuring = is_measuring
        self._on_progress = on_progress
        self._next = 0
        self._num_ended = 0

    def initial(self) -> Iterator[Request]:
        """Yield each client's first request, all at the start."""
        num_first = min(self._factory.workload.num_clients, len(self._factory))
        self._next = num_first  # before the first of them ends: it may be refused on arrival
        for index in range(num_first):
            yield self._factory.make(index, 0, measured=self._is_measuring())

    def after(self, request: Request, now: int) -> Request | None:
        """Return the client's next request, a think time after its last answer."""
        self._num_ended += 1
        is_last = self._next >= len(self._factory)
        self._on_progress(self._num_ended, is_last)
        if is_last:
            return None
        index = self._next
        self._next += 1
        return self._factory.make(index, now + self._factory.time_of(index), measured=self._is_measuring())
