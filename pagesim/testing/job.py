"""A request on the bench: its sequences, the tokens they should have, and what they have been granted."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from pagesim.sequence import Request, Sequence
from pagesim.testing.asked import Left


class Place(enum.Enum):
    """Where a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    SWAPPED = "swapped out"
    GONE = "gone"


class Job:
    """A request and the history of its tokens, kept as plain lists.

    Args:
        name: what a program calls it.
        request: as the policy sees it.

    Attributes:
        tokens: of each sequence, all that are known: the prompt and what was generated.
        granted: of each sequence, how many tokens it has room for that it has not stored yet.
        is_granted: whether all of its sequences have got their room in the step that is being planned.
        left: what it had when it was swapped out.
    """

    def __init__(self, name: str, request: Request) -> None:
        self.name = name
        self.request = request
        self.place = Place.WAITING
        self.is_granted = False
        self.left: Left | None = None
        prompt = [
            f"g{request.prefix_group}@{position}"
            if request.prefix_group is not None and position < request.prefix_tokens
            else f"{name}@{position}"
            for position in range(request.prompt_tokens)
        ]
        self.tokens: dict[Sequence, list[str]] = {sequence: list(prompt) for sequence in request.sequences}
        self.granted: dict[Sequence, int] = dict.fromkeys(request.sequences, 0)

    def __repr__(self) -> str:
        return self.name

    def name_of(self, sequence: Sequence) -> str:
        """Return what a program calls one of its sequences."""
        return self.name if len(self.request.sequences) == 1 else f"{self.name}.{sequence.index}"

    @property
    def live(self) -> list[Sequence]:
        """Its sequences that have not all of their tokens."""
        return self.request.live_sequences

    @property
    def prefilled(self) -> list[Sequence]:
        """The sequences whose prompt is computed at admission: without forks each computes its own."""
        return self.live if self.request.forked else self.request.sequences[:1]

    @property
    def is_prompt_stored(self) -> bool:
        """Whether the prompt that its sequences fork from is stored."""
        return self.request.sequences[0].num_stored >= self.request.prompt_tokens

    @property
    def is_decoding(self) -> bool:
        """Whether all of its live sequences have one token to store."""
        return self.request.forked and all(
            sequence.num_generated and self.need(sequence) == 1 and sequence.block_table for sequence in self.live
        )

    def need(self, sequence: Sequence) -> int:
        """Return how many tokens a sequence has to store before it generates the next."""
        known = len(self.tokens[sequence]) if self.request.forked else self.request.prompt_tokens
        return known - sequence.num_stored

    def grant(self, sequences: Iterable[Sequence] | None = None) -> None:
        """Note that there is room for what its sequences store next; by default for all of them."""
        for sequence in self.live if sequences is None else sequences:
            self.granted[sequence] = self.need(sequence)
        self.is_granted = True

    def lose(self, place: Place) -> None:
        """Note that its memory has been taken away."""
        self.granted = dict.fromkeys(self.request.sequences, 0)
        self.is_granted = False
        self.place = place

    def end(self, sequence: Sequence) -> None:
        """Let a sequence end with the tokens that it has."""
        sequence.num_output = sequence.num_generated
        self.granted[sequence] = 0

    def store(self, sequence: Sequence, num_tokens: int) -> None:
        """Count the tokens of a step; a stored prompt gives every sequence its first token."""
        sequence.num_stored += num_tokens
        self.granted[sequence] -= num_tokens
        if self.need(sequence):
            return
        for each in [sequence] if self.request.forked else self.request.sequences:
            if self.request.forked or not each.num_generated:
                known = self.tokens[each]
                known.append(f"{self.name_of(each)}@{len(known)}")
                each.num_generated += 1

    def replace(self, dead: Sequence, child: Sequence, parent: Sequence) -> None:
        """Put ``child`` in the place of ``dead``: it has what ``parent`` has stored, and a last token of its own."""
        stored = parent.num_stored
        self.tokens[child] = [*self.tokens[parent][:stored], f"{self.name_of(child)}@{stored}"]
        self.granted[child] = 0
        del self.tokens[dead], self.granted[dead]
        self.request.sequences[dead.index] = child
