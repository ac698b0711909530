"""A backend that executes plans on named tokens instead of numbers, and reads back what each sequence should see."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pagesim.backend import Step, StepResult
from pagesim.blocks import Copy, SwapIn, SwapOut
from pagesim.sequence import Branch, Sequence


class Token(NamedTuple):
    """A token by where it comes from: whose prompt or prefix, on which branch, at which position."""

    owner: tuple[str, int]
    branch: Branch | None
    position: int


def token_of(sequence: Sequence, position: int) -> Token:
    """Return the token that ``sequence`` has at ``position``: shared up to where it was forked."""
    request = sequence.request
    if request.prefix_group is not None and position < request.prefix_tokens:
        return Token(("prefix", request.prefix_group), None, position)
    if position < request.prompt_tokens:
        return Token(("request", request.id), None, position)
    branch = sequence.branch or Branch(None, request.prompt_tokens, sequence.index)
    while branch.parent is not None and position < branch.position:
        branch = branch.parent
    return Token(("request", request.id), branch, position)


class ContentBackend:
    """Performs every step on a pool of named tokens.

    Moves are executed in their order, then what is read is checked, then the new tokens are written.

    Args:
        block_size: slots of a block.
        duration: ticks of a step.
    """

    def __init__(self, block_size: int, duration: Callable[[Step], int] = lambda step: step.num_tokens + 1) -> None:
        self.block_size = block_size
        self.duration = duration
        self.device: dict[int, Token] = {}
        self.host: dict[int, Token] = {}

    def execute(self, step: Step) -> StepResult:
        """Perform one step."""
        for op in step.ops:
            size = op.num_blocks * self.block_size
            if isinstance(op, Copy):
                self._move(self.device, op.source, self.device, op.destination, size)
            elif isinstance(op, SwapOut):
                self._move(self.device, op.device, self.host, op.host, size)
            elif isinstance(op, SwapIn):
                self._move(self.host, op.host, self.device, op.device, size)
        work = [(chunk.sequence, chunk.num_tokens) for chunk in step.prefills]
        work += [(sequence, 1) for sequence in step.decodes]
        for sequence, num_tokens in work:
            self.read(sequence)
            for position in range(sequence.num_stored, sequence.num_stored + num_tokens):
                self.device[self.slot(sequence, position)] = token_of(sequence, position)
        for sequence, num_tokens in work:  # nobody has written over what another one wrote in this step
            self.read(sequence, sequence.num_stored + num_tokens)
        ticks = self.duration(step)
        return StepResult(ticks, overhead=ticks)

    def read(self, sequence: Sequence, num_tokens: int | None = None) -> None:
        """Check that the stored tokens are where the block table says."""
        for position in range(sequence.num_stored if num_tokens is None else num_tokens):
            found = self.device.get(self.slot(sequence, position))
            wanted = token_of(sequence, position)
            assert found == wanted, f"{sequence} reads {found} at {position} instead of {wanted}"

    def slot(self, sequence: Sequence, position: int) -> int:
        """Return where a token is stored."""
        block, offset = divmod(position, self.block_size)
        return sequence.block_table[block] * self.block_size + offset

    def _move(self, source: dict[int, Token], start: int, target: dict[int, Token], end: int, size: int) -> None:
        start, end = start * self.block_size, end * self.block_size
        read = [source.get(start + offset) for offset in range(size)]
        for offset, token in enumerate(read):
            if token is not None:
                target[end + offset] = token
