"""The requests of a run, as arrays: the same for every allocator that is compared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


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


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in the order of their arrival. All arrays are (num_requests,) and cannot be written.

    Attributes:
        name: for people.
        prompt_tokens: length of each prompt, from 1, a shared prefix included.
        output_tokens: how many tokens each request generates, from 1.
        estimates: how many of them a policy may expect, from 1.
        arrivals: ticks, non-decreasing; None in a closed loop.
        closed_loop: None unless arrivals are.
        sample_output_tokens: (num_requests, n) a length for each sample; None if they share one.
        prefix_groups: which prefix each prompt starts with, from 0; None if there are no shared prefixes.
        prefix_tokens: length of every prefix; 0 if there are none.
        skipped_rows: malformed rows of a trace that were left out.
    """

    name: str
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    estimates: NDArray[np.int64]
    arrivals: NDArray[np.int64] | None = None
    closed_loop: ClosedLoop | None = None
    sample_output_tokens: NDArray[np.int64] | None = None
    prefix_groups: NDArray[np.int64] | None = None
    prefix_tokens: int = 0
    skipped_rows: int = 0

    def __post_init__(self) -> None:
        """Check that the arrays belong together, and freeze them. Raises ValueError."""
        if (self.arrivals is None) == (self.closed_loop is None):
            raise ValueError("a workload has either arrivals or a closed loop")
        samples = self.sample_output_tokens
        if samples is not None:
            if samples.dtype != np.int64 or samples.ndim != 2 or len(samples) != len(self.prompt_tokens):
                raise ValueError(f"sample_output_tokens: must be int64 of shape ({len(self.prompt_tokens)}, n)")
            samples.flags.writeable = False
        for name, array in self._arrays():
            if array.dtype != np.int64 or array.shape != self.prompt_tokens.shape or array.ndim != 1:
                raise ValueError(
                    f"{name}: must be int64 of shape ({len(self.prompt_tokens)},), is {array.dtype} {array.shape}"
                )
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that a run depends on, in hexadecimal; the name is left out."""
        digest = hashlib.sha256()
        num_clients = 0 if self.closed_loop is None else self.closed_loop.num_clients
        digest.update(f"{len(self)} {num_clients} {self.prefix_tokens}".encode())
        for name, array in self._arrays():
            digest.update(name.encode())
            digest.update(array.astype("<i8").tobytes())
        if self.sample_output_tokens is not None:
            digest.update(b"sample_output_tokens")
            digest.update(self.sample_output_tokens.astype("<i8").tobytes())
        return digest.hexdigest()

    def _arrays(self) -> list[tuple[str, NDArray[np.int64]]]:
        arrays = {
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "estimates": self.estimates,
            "arrivals": self.arrivals,
            "think_times": None if self.closed_loop is None else self.closed_loop.think_times,
            "prefix_groups": self.prefix_groups,
        }
        return [(name, array) for name, array in arrays.items() if array is not None]
