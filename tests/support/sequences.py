"""Sequences that are driven by hand, without a scheduler."""

from __future__ import annotations

from pagesim.allocators.base import Allocator, Forks
from pagesim.blocks import BlockOps
from pagesim.sequence import Request, Sequence

_UNTIL_TOLD_OTHERWISE = 1000


def make_sequence(prompt: int, output: int = _UNTIL_TOLD_OTHERWISE, *, estimate: int | None = None) -> Sequence:
    """Return the only sequence of a new request."""
    return make_request(prompt, output, estimate=estimate).sequences[0]


def make_request(prompt: int, output: int = 1000, num_sequences: int = 1, *, estimate: int | None = None) -> Request:
    """Return a request whose future may be read."""
    request = Request(0, 0, prompt, output, num_sequences, estimate)
    request.oracle = True
    return request


def store(allocator: Allocator, sequence: Sequence, num_tokens: int) -> BlockOps | None:
    """Allocate and store tokens, as a scheduler and its commit would."""
    ops = allocator.allocate(sequence, num_tokens)
    if ops is not None:
        sequence.num_stored += num_tokens
    return ops


def fork(allocator: Allocator, parent: Sequence, child: Sequence) -> BlockOps | None:
    """Fork, as a scheduler would."""
    assert isinstance(allocator, Forks)
    ops = allocator.fork(parent, child)
    if ops is not None:
        child.num_stored = parent.num_stored
    return ops
