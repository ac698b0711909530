"""Beam search: replacing beams that have died by continuations of others.

A replacement is decided when a token has been generated, and performed before the next one is stored:
first the survivor is forked, then the dead beam is freed.
"""

from __future__ import annotations

from collections.abc import Callable

from pagesim.backend import Step
from pagesim.blocks import BlockOps
from pagesim.schedulers.queues import Queues
from pagesim.sequence import Branch, Request, Sequence

Call = Callable[[], BlockOps | None]
Obtain = Callable[[Call], BlockOps | None]
"""Calls until there is room; None if there will be none."""


def select(queues: Queues) -> None:
    """Let the model say which beams go on, for every request that has got a token."""
    for request in queues.running:
        num_generated = request.sequences[0].num_generated
        if request.beams is None or num_generated <= request.num_selected:
            continue
        request.num_selected = num_generated
        survivor = request.beams.survive(request.id, num_generated, len(request.sequences))
        if survivor is not None and survivor[0] != survivor[1]:
            request.survivors.append(survivor)
            queues.ready[request] = None


def continue_all(queues: Queues, request: Request, step: Step, obtain: Obtain | None = None) -> bool:
    """Perform the replacements of ``request``; False if there was no room.

    Args:
        obtain: makes room where a fork needs it; by default a fork without room fails.
    """
    while request.survivors:
        replaced, continued = request.survivors[0]
        parent = request.sequences[continued]
        child = _continuation(parent, request.sequences[replaced])
        request.sequences.append(child)  # while both exist, both hold memory

        def fork(parent: Sequence = parent, child: Sequence = child) -> BlockOps | None:
            return queues.memory.fork(parent, child)

        ops = fork() if obtain is None else obtain(fork)
        request.sequences.remove(child)
        if ops is None:
            return False
        queues.perform(step, ops)
        request.survivors.pop(0)
        _replace(queues, request, replaced, child)
    return True


def continue_in_name(queues: Queues, request: Request) -> None:
    """Replace beams without memory, before all memory of ``request`` is taken away."""
    for replaced, continued in request.survivors:
        child = _continuation(request.sequences[continued], request.sequences[replaced])
        _replace(queues, request, replaced, child)
    request.survivors.clear()


def _replace(queues: Queues, request: Request, index: int, child: Sequence) -> None:
    """Put ``child`` in the place of a beam, which is freed."""
    dead = request.sequences[index]
    if dead.is_decoding:
        queues.decoding.leave(dead)
    queues.prefilling.pop(dead, None)
    child.last_token_at = dead.last_token_at
    request.sequences.append(child)
    queues.memory.discard(dead)
    request.sequences.pop()
    request.sequences[index] = child


def _continuation(parent: Sequence, dead: Sequence) -> Sequence:
    """Return a new sequence that goes on from ``parent`` in the place of ``dead``."""
    child = Sequence(parent.request, dead.index)
    child.num_output, child.estimate = dead.num_output, dead.estimate
    child.num_generated = parent.num_generated
    root = parent.branch or Branch(None, parent.request.prompt_tokens, parent.index)
    child.branch = Branch(root, parent.num_stored, dead.index)
    return child
