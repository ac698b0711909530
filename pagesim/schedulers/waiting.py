"""The requests that wait, those at the end of the queue as numbers: under overload that is nearly all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from pagesim.sequence import Request


class Waiting:
    """A queue of requests, in the order in which they are admitted.

    Requests of a source that can make any of them again need not be kept: once ``make`` is set, those that arrive
    are remembered as a range of numbers, and made when somebody looks at them.

    Attributes:
        front: requests that are there as objects; they come before the others.
        first, end: the others are among the requests ``first`` to ``end - 1``.
        num_others: how many of those wait.
        make: returns a request by its number, as it is when it arrives; None if it never waited. Set by who knows
            the source.
    """

    __slots__ = ("end", "first", "front", "make", "num_others")

    def __init__(self) -> None:
        self.front: deque[Request] = deque()
        self.first = self.end = self.num_others = 0
        self.make: Callable[[int], Request | None] | None = None

    def __len__(self) -> int:
        return len(self.front) + self.num_others

    def __iter__(self) -> Iterator[Request]:
        yield from self.front
        if self.make is not None:
            for number in range(self.first, self.end):
                request = self.make(number)
                if request is not None:
                    yield request

    def __reversed__(self) -> Iterator[Request]:
        return reversed(list(self))

    def append(self, request: Request) -> None:
        """Put a request that has arrived at the end."""
        if self.make is None:
            self.front.append(request)
            return
        if not self.num_others:
            self.first = request.id
        self.end = request.id + 1
        self.num_others += 1

    def appendleft(self, request: Request) -> None:
        """Put a request that was preempted before all others."""
        self.front.appendleft(request)

    def popleft(self) -> Request:
        """Remove and return the next request. Raises IndexError if there is none."""
        self._fill(1)
        return self.front.popleft()

    def __getitem__(self, place: int) -> Request:
        """Return the request at ``place``, from 0 on. Raises IndexError if there are fewer."""
        self._fill(place + 1)
        return self.front[place]

    def _fill(self, count: int) -> None:
        """Make the next requests until ``count`` are there as objects."""
        while len(self.front) < count and self.num_others and self.make is not None:
            request = self.make(self.first)
            self.first += 1
            if request is not None:
                self.num_others -= 1
                self.front.append(request)
