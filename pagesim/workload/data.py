"""The requests of a run: the same for every allocator that is compared, and handed out in chunks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pagesim.rows import Rows

CHUNK: Final = 1 << 13
"""So many requests are drawn or read at a time, unless somebody asks for another number."""

Integers = NDArray[np.int64]
Take = Callable[[int, int], "Chunk"]
"""Gives the requests from one number up to another; each call goes on where the last one ended."""


@dataclass(frozen=True, eq=False)
class ClosedLoop:
    """Clients that wait for their answer before they ask again.

    Attributes:
        num_clients: how many there are; each sends its first request at tick 0.
        think_times: (num_requests,) ticks that a client waits before it sends this request, from the end
            of its previous one; of no effect on a client's first.
    """

    num_clients: int
    think_times: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Chunk:
    """Some requests, one after the other in the order of arrival. Arrays are int64 of (num_requests,), read-only.

    Attributes:
        first: number of the first request, from 0 in the workload.
        prompt_tokens: length of each prompt, from 1, a shared prefix included.
        output_tokens: how many tokens each request generates, from 1.
        estimates: how many of them a policy may expect, from 1.
        arrivals: ticks, non-decreasing; None in a closed loop.
        think_times: ticks of a closed loop; None unless arrivals are.
        prefix_groups: which prefix each prompt starts with, from 0; None if there are no shared prefixes.
        sample_output_tokens: (num_requests, n) a length for each sample; None if they share one.
    """

    prompt_tokens: Integers
    output_tokens: Integers
    estimates: Integers
    arrivals: Integers | None = None
    think_times: Integers | None = None
    prefix_groups: Integers | None = None
    sample_output_tokens: Integers | None = None
    first: int = 0

    def __post_init__(self) -> None:
        """Check that the arrays belong together, and freeze them. Raises ValueError."""
        if (self.arrivals is None) == (self.think_times is None):
            raise ValueError("a workload has either arrivals or a closed loop")
        for name, array in self.columns().items():
            is_wide = name == "sample_output_tokens"
            if array.dtype != np.int64 or len(array) != len(self) or array.ndim != 1 + is_wide:
                shape = f"({len(self)}, n)" if is_wide else f"({len(self)},)"
                raise ValueError(f"{name}: must be int64 of shape {shape}, is {array.dtype} {array.shape}")
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def columns(self) -> dict[str, Integers]:
        """Return the arrays that are there, by their names."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "first"}
        return {name: array for name, array in arrays.items() if array is not None}

    def cut(self, first: int, last: int) -> Chunk:
        """Return the requests from place ``first`` up to ``last`` of the chunk."""
        columns = {name: array[first:last] for name, array in self.columns().items()}
        return Chunk(first=self.first + first, **columns)


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in the order of their arrival. They are drawn or read anew whenever they are wanted, not kept.

    Attributes:
        name: for people.
        num_requests: how many there are.
        start: begins anew, and returns what takes requests.
        num_clients: of a closed loop; 0 in an open workload.
        prefix_tokens: length of every prefix; 0 if there are none.
        skipped_rows: malformed rows of a trace that were left out.
        arrival_marks: arrivals of the first request, of request ceil(0.1 N) and of the last, in ticks; None in a
            closed loop and without requests.
    """

    name: str
    num_requests: int
    start: Callable[[], Take]
    num_clients: int = 0
    prefix_tokens: int = 0
    skipped_rows: int = 0
    arrival_marks: tuple[int, int, int] | None = None

    @classmethod
    def of_arrays(
        cls,
        name: str,
        prompt_tokens: Integers,
        output_tokens: Integers,
        estimates: Integers,
        arrivals: Integers | None = None,
        closed_loop: ClosedLoop | None = None,
        prefix_tokens: int = 0,
    ) -> Workload:
        """Return a workload of arrays that are there already. Raises ValueError if they do not belong together."""
        whole = Chunk(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            estimates=estimates,
            arrivals=arrivals,
            think_times=None if closed_loop is None else closed_loop.think_times,
        )
        return cls(
            name,
            len(whole),
            lambda: whole.cut,
            num_clients=0 if closed_loop is None else closed_loop.num_clients,
            prefix_tokens=prefix_tokens,
            arrival_marks=None if arrivals is None or not len(arrivals) else marks_of(arrivals),
        )

    def __len__(self) -> int:
        return self.num_requests

    @property
    def is_closed(self) -> bool:
        """Whether clients wait for their answers, instead of requests that arrive whatever happens."""
        return self.num_clients > 0

    @property
    def steady_window(self) -> tuple[int, int] | None:
        """First and last tick of the steady window of an open workload; None if it spans no time."""
        if self.arrival_marks is None:
            return None
        _, first, last = self.arrival_marks
        return (first, last) if last > first else None

    def chunks(self, size: int | None = None) -> Iterator[Chunk]:
        """Yield all requests, ``size`` at a time, by default ``CHUNK``; the size changes nothing about them."""
        take, size = self.start(), size or CHUNK
        for first in range(0, len(self), size):
            yield take(first, min(first + size, len(self)))

    @cached_property
    def column_names(self) -> frozenset[str]:
        """Names of the arrays that its chunks have."""
        return frozenset(self.start()(0, 0).columns())

    def whole(self) -> Chunk:
        """Return all requests at once, for few of them."""
        return self.start()(0, len(self))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that a run depends on, in hexadecimal; the name is left out.

        Columns are hashed one after the other, so they wait on the disk for their turn.
        """
        digest = hashlib.sha256(f"{len(self)} {self.num_clients} {self.prefix_tokens}".encode())
        shapes = {name: array.shape[1:] for name, array in self.start()(0, 0).columns().items()}
        waiting = {name: Rows(math.prod(shape)) for name, shape in shapes.items()}
        for chunk in self.chunks():
            for name, array in chunk.columns().items():
                waiting[name].extend(array)
        for name, rows in waiting.items():
            digest.update(name.encode())
            for part in rows.chunks():
                digest.update(part.astype("<i8").tobytes())
        return digest.hexdigest()


def tenth(num_requests: int) -> int:
    """Return the place of request ceil(0.1 N), with which the steady window begins."""
    return max(math.ceil(0.1 * num_requests) - 1, 0)


def marks_of(arrivals: Integers) -> tuple[int, int, int]:
    """Return a workload's ``arrival_marks``."""
    return int(arrivals[0]), int(arrivals[tenth(len(arrivals))]), int(arrivals[-1])
