"""The sequences that decode, kept so that a decode step touches none of them.

All of them gain one token in every decode step, so one shared clock counts for all. What happens
to a single sequence (it needs a block, it ends) is entered under the value of the clock at which it
will happen:

    clock      0    1    2    3    4    5
    due                  [A]       [B]         A's table is full when the clock is 2
    ending                    [B]       [A]    B has its last token when the clock is 3

An entry goes stale when its sequence leaves; it is recognised when it is read.
"""

from __future__ import annotations

from pagesim.journal import GapHistogram
from pagesim.sequence import Clock, Sequence


class Decoding:
    """The running sequences of which every token but the last generated one is stored.

    Args:
        block_size: slots of a block.
        bulk: whether the allocator needs to be called only when a table is full.
    """

    __slots__ = (
        "_context_base",
        "_due",
        "_ending",
        "_last_tick",
        "_newcomers",
        "_num_measured",
        "block_size",
        "bulk",
        "clock",
        "num_entries",
        "sequences",
    )

    def __init__(self, block_size: int, *, bulk: bool) -> None:
        self.block_size = block_size
        self.bulk = bulk
        self.clock = Clock()
        self.sequences: dict[Sequence, None] = {}
        self.num_entries = 0  # blocks in their tables, summed
        self._context_base = 0  # stored tokens, summed, as if the clock were 0
        self._due: dict[int, list[Sequence]] = {}
        self._ending: dict[int, list[Sequence]] = {}
        self._newcomers: dict[Sequence, None] = {}  # joined since the last tick
        self._num_measured = 0
        self._last_tick = 0

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def context_tokens(self) -> int:
        """Tokens that the next step attends to, the ones it stores included, summed."""
        return self._context_base + len(self.sequences) * (self.clock.value + 1)

    def join(self, sequence: Sequence) -> None:
        """Add a sequence whose table has room for its next token."""
        self._context_base += sequence.num_stored - self.clock.value
        self.num_entries += len(sequence.block_table)
        sequence.join(self.clock)
        self.sequences[sequence] = None
        self._newcomers[sequence] = None
        self._num_measured += sequence.request.measured
        self._ending.setdefault(sequence.end, []).append(sequence)
        self.enter_due(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Remove a sequence: it has ended, or is preempted, or forks."""
        del self.sequences[sequence]
        self.num_entries -= len(sequence.block_table)
        self._num_measured -= sequence.request.measured
        if sequence in self._newcomers:
            del self._newcomers[sequence]
        else:
            sequence.last_token_at = self._last_tick
        sequence.leave()
        self._context_base -= sequence.num_stored - self.clock.value

    def enter_due(self, sequence: Sequence) -> None:
        """Note when the sequence needs its allocator next."""
        clock = self.clock.value
        if self.bulk:
            asked = sequence.num_asked
            capacity = len(sequence.block_table) * self.block_size if asked is None else asked
            # Room that a plug-in's table does not have is noticed in the next step, not never.
            sequence.due = clock + max(capacity - sequence.num_stored, 1)
        else:
            sequence.due = clock + 1
        self._due.setdefault(sequence.due, []).append(sequence)

    def extended(self, sequences: list[Sequence]) -> None:
        """Note that each of ``sequences``, all due now, has got one more block."""
        self.num_entries += len(sequences)
        due = self.clock.value + self.block_size
        for sequence in sequences:
            sequence.due = due
        self._due.setdefault(due, []).extend(sequences)

    def due(self) -> list[Sequence]:
        """Return the sequences whose allocator has to be asked before the next step, and forget the entries."""
        clock = self.clock.value
        entries = self._due.pop(clock, None)
        if not entries:
            return []
        # One that left and joined again since may stand here twice.
        return [sequence for sequence in dict.fromkeys(entries) if sequence.is_decoding and sequence.due == clock]

    @property
    def may_end_next(self) -> bool:
        """Whether a sequence may have its last token after the next step."""
        return self.clock.value + 1 in self._ending

    def put_back(self, due: list[Sequence]) -> None:
        """Enter sequences again that ``due`` returned and that have not been served."""
        self._due.setdefault(self.clock.value, []).extend(due)

    def tick(self, now: int, gaps: GapHistogram) -> list[Sequence]:
        """Give every sequence its token, at ``now``; return those that have their last one."""
        count = self._num_measured
        for sequence in self._newcomers:
            if sequence.request.measured:
                gaps.add(now - sequence.last_token_at)
                count -= 1
        if count:
            gaps.add(now - self._last_tick, count)
        self._newcomers.clear()
        self._last_tick = now
        self.clock.value += 1
        clock = self.clock.value
        entries = self._ending.pop(clock, None)
        if not entries:
            return []
        ended = [sequence for sequence in entries if sequence.is_decoding and sequence.end == clock]
        return list(dict.fromkeys(ended))
