"""Requests and their sequences: what is served, and how far it has come.

A request is one prompt with one or more sequences (parallel samples or beams). A sequence owns
its block table: the list that maps its logical blocks to blocks of the pool.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pagesim.errors import InvariantError, PluginError


class SequenceStatus(enum.Enum):
    """Where a request is in its life; its sequences share it."""

    WAITING = "waiting"
    RUNNING = "running"
    SWAPPED = "swapped"
    FINISHED = "finished"
    REFUSED = "refused"


class Numbers(Protocol):
    """A pool that gives numbers to blocks that it has promised."""

    block_size: int

    def fulfil(self, count: int) -> list[int]:
        """Return the numbers of ``count`` promised blocks."""
        ...


class Clock:
    """Counts the decode steps of a scheduler.

    A decoding sequence stores one token a decode step, all of them at once. Instead of touching
    each of them, the scheduler advances one shared counter, and a sequence that decodes adds it
    to what it had when it joined.

    Attributes:
        value: decode steps so far.
        granted: decode steps for which everyone has room: ``value``, and one more when the step
            at ``value`` has been granted its blocks.
        pool: where the blocks come from that were promised to sequences that keep pace with the clock.
    """

    __slots__ = ("granted", "pool", "value")

    def __init__(self, pool: Numbers | None = None) -> None:
        self.value = 0
        self.granted = 0
        self.pool = pool


STOPPED = Clock()
"""The clock of a sequence that is not decoding: it stays at 0."""


@dataclass(frozen=True, slots=True)
class Future:
    """What only an oracle may look at. Reading it needs ``oracle = True`` on the policy's class."""

    output_tokens: int


class Branch(NamedTuple):
    """A fork in the history of a sequence's tokens.

    Attributes:
        parent: the fork before it, None at the prompt.
        position: number of tokens that both sides share.
        way: the index of the sequence that went this way.
    """

    parent: Branch | None
    position: int
    way: int


class Sequence:
    """One stream of tokens: a prompt and what has been generated after it.

    Attributes:
        request: the request it belongs to.
        index: its place among the sequences of its request.
        block_table: logical block -> physical block. Owned by the allocator's ``allocate``/``free``. While it
            keeps pace with the clock, it holds blocks that are promised and get their numbers when it is read.
        host_table: the same for host blocks while it is swapped out.
        resident_table: its first blocks, as far as they stay on the device while it is swapped out
            because another request holds them too.
        branch: how its tokens came about: what it was forked from, and where.
        num_asked: slots that the policy asked for; None means all that its table holds.
        estimate: how many output tokens a policy may expect (see ``workload.estimate``).
        num_output: how many tokens it will generate. For the engine; a policy asks ``future``.
        num_lost: tokens that it had stored when it was preempted for recomputation.
        due: the value of the clock at which the blocks that have numbers are full, while it decodes.
        keeps_pace: whether it gets a block whenever the clock has advanced by a block's slots, unasked.
        retired: whether it has ended and its memory is still held, for nothing.
        last_token_at: tick of its last token, as long as it is not in the stream of decodes.
    """

    __slots__ = (
        "_clock",
        "_num_generated",
        "_num_stored",
        "_table",
        "branch",
        "due",
        "estimate",
        "host_table",
        "index",
        "keeps_pace",
        "last_token_at",
        "num_asked",
        "num_lost",
        "num_output",
        "request",
        "resident_table",
        "retired",
    )

    def __init__(self, request: Request, index: int = 0) -> None:
        self.request = request
        self.index = index
        self._table: list[int] = []
        self.host_table: list[int] = []
        self.resident_table: list[int] = []
        self.num_asked: int | None = None
        self.branch: Branch | None = None
        self.num_output = request.output_tokens
        self.num_lost = 0
        self.due = 0
        self.keeps_pace = False
        self.last_token_at = 0
        self.retired = False
        self.estimate = request.estimate
        self._num_stored = 0
        self._num_generated = 0
        self._clock = STOPPED

    @property
    def future(self) -> Future:
        """The truth about its length, for oracles.

        Raises PluginError unless a policy of the run says ``oracle = True``.
        """
        if not self.request.oracle:
            raise PluginError("sequence.future is read by a policy whose class does not say `oracle = True`")
        return Future(self.num_output)

    @property
    def block_table(self) -> list[int]:
        """Logical block -> physical block."""
        if self.keeps_pace and self._clock.granted > self.due:
            self.number_blocks()
        return self._table

    @block_table.setter
    def block_table(self, table: list[int]) -> None:
        self._table = table

    @property
    def num_blocks(self) -> int:
        """Entries of its block table, those included that have no number yet."""
        return len(self._table) + self._num_promised()

    @property
    def num_stored(self) -> int:
        """Tokens whose keys and values are stored. Only the scheduler's ``commit`` changes it."""
        return self._num_stored + self._clock.value

    @num_stored.setter
    def num_stored(self, num_tokens: int) -> None:
        self._num_stored = num_tokens - self._clock.value

    @property
    def num_generated(self) -> int:
        """Output tokens so far; the last one is not stored yet."""
        return self._num_generated + self._clock.value

    @num_generated.setter
    def num_generated(self, num_tokens: int) -> None:
        self._num_generated = num_tokens - self._clock.value

    @property
    def num_known(self) -> int:
        """Prompt and generated tokens: what a prefill has to store."""
        return self.request.prompt_tokens + self.num_generated

    @property
    def num_prefill(self) -> int:
        """Tokens that a prefill has to store before it decodes, or before the others fork from it."""
        return self.num_known if self.request.forked else self.request.prompt_tokens

    def num_lost_among(self, stored: int, num_tokens: int) -> int:
        """Return how many of the ``num_tokens`` after the first ``stored`` had been stored before a preemption."""
        return max(min(stored + num_tokens, self.num_lost) - stored, 0)

    @property
    def num_final(self) -> int:
        """Stored tokens at its end: prompt + output - 1, for the last token is never stored."""
        return self.request.prompt_tokens + self.num_output - 1

    @property
    def has_ended(self) -> bool:
        """Whether it has all of its tokens."""
        return self.num_generated >= self.num_output

    @property
    def is_decoding(self) -> bool:
        """Whether it gains one token in every decode step."""
        return self._clock is not STOPPED

    @property
    def end(self) -> int:
        """The value of the clock at which its last token has been generated; while it decodes."""
        return self.num_output - self._num_generated

    def _num_promised(self) -> int:
        if not self.keeps_pace:
            return 0
        clock = self._clock
        if clock.pool is None:
            raise InvariantError("a sequence keeps pace with a clock that has no pool")
        return max(-((self.due - clock.granted) // clock.pool.block_size), 0)

    def number_blocks(self) -> None:
        """Give numbers to the blocks that it was promised."""
        pool, count = self._clock.pool, self._num_promised()
        if pool is not None:
            self._table += pool.fulfil(count)
            self.due += count * pool.block_size

    def join(self, clock: Clock) -> None:
        """Start to decode: from here on its counts follow ``clock``."""
        self._num_stored -= clock.value
        self._num_generated -= clock.value
        self._clock = clock

    def leave(self) -> None:
        """Stop decoding: its counts keep the values that they have now."""
        self._num_stored += self._clock.value
        self._num_generated += self._clock.value
        self._clock = STOPPED

    def __repr__(self) -> str:
        return f"Sequence({self.request.id}.{self.index}, stored={self.num_stored}, table={list(self.block_table)})"


class BeamModel(Protocol):
    """Decides which beams go on."""

    def survive(self, request_id: int, num_generated: int, width: int) -> tuple[int, int] | None:
        """Return (beam that is replaced, beam that it continues) after a token, or None."""
        ...


class Request:
    """One prompt, with its sequences and the instants of its life (ticks).

    Args:
        id: its number in the order of arrival, from 0.
        arrival: when it arrives, in ticks.
        prompt_tokens: at least 1.
        output_tokens: the length of its (longest) output, at least 1.
        num_sequences: parallel samples or beams.
        estimate: output tokens that a policy may expect; the truth by default.

    Attributes:
        order: its place among the running requests, by admission.
        oracle: whether a policy of the run may read the future.
        measured: whether it arrived inside the window over which request figures are taken.
        prefix_group: requests of a group begin with the same ``prefix_tokens`` tokens; None: with none.
        beams: how beams survive; None: its sequences are samples.
        num_selected: tokens after which survival has been decided; one token has no past to share.
        waits_since: the pool's generation when it had to go because nobody else could, None if it never had.
        survivors: beam replacements that the next step performs: (index replaced, index continued).
        forked: whether all of its sequences have the prompt (or there is only one).
        num_live: sequences that have not ended.
        fits_alone: whether an empty pool is known to admit it.
        reason: why it was refused.
    """

    __slots__ = (
        "admitted_at",
        "arrival",
        "beams",
        "estimate",
        "finished_at",
        "first_token_at",
        "fits_alone",
        "forked",
        "id",
        "last_token_at",
        "measured",
        "num_live",
        "num_preemptions_recompute",
        "num_preemptions_swap",
        "num_recomputed",
        "num_selected",
        "oracle",
        "order",
        "output_tokens",
        "prefix_group",
        "prefix_tokens",
        "prompt_tokens",
        "reason",
        "sequences",
        "status",
        "survivors",
        "waits_since",
    )

    def __init__(
        self,
        id: int,
        arrival: int,
        prompt_tokens: int,
        output_tokens: int,
        num_sequences: int = 1,
        estimate: int | None = None,
    ) -> None:
        self.id = id
        self.arrival = arrival
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.estimate = output_tokens if estimate is None else estimate
        self.prefix_group: int | None = None
        self.prefix_tokens = 0
        self.beams: BeamModel | None = None
        self.num_selected = 1
        self.waits_since: int | None = None
        self.survivors: list[tuple[int, int]] = []
        self.status = SequenceStatus.WAITING
        self.reason = ""
        self.admitted_at: int | None = None
        self.first_token_at: int | None = None
        self.last_token_at: int | None = None
        self.finished_at: int | None = None
        self.measured = True
        self.fits_alone = False
        self.forked = num_sequences == 1
        self.num_live = num_sequences
        self.num_preemptions_recompute = 0
        self.num_preemptions_swap = 0
        self.num_recomputed = 0
        self.oracle = False
        self.order = 0
        self.sequences = [Sequence(self, index) for index in range(num_sequences)]

    def give_lengths(self, output_tokens: list[int]) -> None:
        """Give each sample its own length, the longest first: it is the one that the others fork from."""
        lengths = sorted(output_tokens, reverse=True)
        self.output_tokens = self.estimate = lengths[0]
        for sequence, length in zip(self.sequences, lengths, strict=True):
            sequence.num_output = sequence.estimate = length

    def requeue(self) -> None:
        """Wait again, after a preemption."""
        self.status = SequenceStatus.WAITING

    def truncate(self, max_model_len: int) -> None:
        """Cut the prompt to leave room for one token, then the outputs, so that all fits ``max_model_len``."""
        self.prompt_tokens = min(self.prompt_tokens, max_model_len - 1)
        longest = max_model_len - self.prompt_tokens
        self.output_tokens = min(self.output_tokens, longest)
        self.estimate = min(self.estimate, longest)
        for sequence in self.sequences:
            sequence.num_output = min(sequence.num_output, longest)
            sequence.estimate = min(sequence.estimate, longest)

    def too_long(self, max_model_len: int) -> str:
        """Return why it is refused on arrival; an empty text if it is not."""
        length = self.prompt_tokens + self.output_tokens
        return f"too long: {length} tokens of max_model_len {max_model_len}" if length > max_model_len else ""

    @property
    def live_sequences(self) -> list[Sequence]:
        """Its sequences that have not ended."""
        return [sequence for sequence in self.sequences if not sequence.has_ended]

    def __repr__(self) -> str:
        return (
            f"Request({self.id}, prompt={self.prompt_tokens}, output={self.output_tokens}, "
            f"{self.status.value}, {len(self.sequences)} sequences)"
        )
