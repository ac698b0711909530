"""A request on the bench: its sequences, the tokens they should have, and what they have been granted."""

from __future__ import annotations

import enum

from pagesim.sequence import Request, Sequence


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
    """

    def __init__(self, name: str, request: Request) -> None:
        self.name = name
        self.request = request
        self.place = Place.WAITING
        self.is_granted = False
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

    def generate(self, sequence: Sequence) -> None:
        """Give a sequence its next token, which is not stored yet."""
        known = self.tokens[sequence]
        known.append(f"{self.name_of(sequence)}@{len(known)}")
        sequence.num_generated += 1

    def forget_grants(self) -> None:
        """Forget what was granted: the memory has been taken away."""
        self.granted = dict.fromkeys(self.request.sequences, 0)
        self.is_granted = False

    def fork_names(self, parent: Sequence, child: Sequence) -> None:
        """Let ``child`` have what ``parent`` has stored, and a last token of its own."""
        stored = parent.num_stored
        self.tokens[child] = [*self.tokens[parent][:stored], f"{self.name_of(child)}@{stored}"]
        self.granted[child] = 0
