"""The requests of an open workload as plain numbers: those that are needed still, and a chunk ahead."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from pagesim.sequence import Request
from pagesim.sources import Numbered

NEVER: Final = 1 << 62
"""The arrival of the request after the last."""


class Arrivals:
    """Lists of numbers, of requests ``first`` to ``first + len(instants) - 1``.

    Args:
        source: of the requests; its ``position`` says which comes next.
        max_model_len: longer requests are refused on arrival, or cut where ``truncate`` says so.
        can_fork: whether a request's sequences fork from one prompt.

    Attributes:
        first: the request that the lists begin with.
        instants: arrivals, in ticks.
        prompts: tokens; 0 where the request is too long, and refused on arrival.
        outputs: tokens.
    """

    CHUNK: Final = 4096

    def __init__(self, source: Numbered, max_model_len: int, *, truncate: bool, can_fork: bool) -> None:
        self._source = source
        self._longest = max_model_len
        self._truncate = truncate
        self._can_fork = can_fork
        self.first = 0
        self.instants: list[int] = []
        self.prompts: list[int] = []
        self.outputs: list[int] = []

    @property
    def end(self) -> int:
        """The first request that is not in the lists yet."""
        return self.first + len(self.instants)

    def load(self, oldest: int) -> bool:
        """Add a chunk, and drop what comes before request ``oldest``; False: there are no more."""
        begin = self.end
        if begin >= len(self._source):
            return False
        dropped = min(oldest - self.first, len(self.instants))
        if dropped >= self.CHUNK:
            del self.instants[:dropped], self.prompts[:dropped], self.outputs[:dropped]
            self.first += dropped
        instants, prompts, outputs = self._source.numbers(begin, min(begin + self.CHUNK, len(self._source)))
        longest = self._longest
        if self._truncate:
            prompts = [min(prompt, longest - 1) for prompt in prompts]
            outputs = [min(output, longest - prompt) for prompt, output in zip(prompts, outputs, strict=True)]
        else:
            prompts = [
                prompt if prompt + output <= longest else 0 for prompt, output in zip(prompts, outputs, strict=True)
            ]
        self.instants += instants
        self.prompts += prompts
        self.outputs += outputs
        return True

    def instant(self, request: int, oldest: int) -> int:
        """Return when ``request`` arrives, ``NEVER`` after the last; ``oldest`` as ``load`` takes it."""
        while request >= self.end:
            if not self.load(oldest):
                return NEVER
        return self.instants[request - self.first]

    def is_too_long(self, request: int) -> bool:
        """Return whether a request that is in the lists is refused on arrival."""
        return not self.prompts[request - self.first]

    def output(self, request: int) -> int:
        """Return the output of a request that is in the lists."""
        return self.outputs[request - self.first]

    @property
    def measured(self) -> tuple[int, int]:
        """The requests whose figures are taken: the first, and the first after them."""
        window, total = self._source.window, len(self._source)
        if window is None:
            return 0, total
        numbers = range(total)

        def arrival(number: int) -> int:
            return self._source.numbers(number, number + 1)[0][0]

        return bisect_left(numbers, window[0], key=arrival), bisect_right(numbers, window[1], key=arrival)

    def make(self, request: int) -> Request | None:
        """Return request ``request`` as a scheduler queues it when it arrives; None if it is refused then."""
        made = self.make_any(request)
        return None if made.too_long(self._longest) else made

    def make_any(self, request: int) -> Request:
        """Return request ``request`` as it arrives."""
        made = self._source.make(request)
        if self._truncate:
            made.truncate(self._longest)
        made.forked = made.forked or not self._can_fork
        return made

    def refused(self, request: int) -> tuple[Request, str]:
        """Return a request that is too long as it arrives, and why it is refused then."""
        made = self.make_any(request)
        return made, made.too_long(self._longest)
