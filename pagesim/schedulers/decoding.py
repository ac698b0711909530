"""The sequences that decode, kept so that a decode step touches none of them.

All of them gain one token in every decode step, so one shared clock counts for all. What happens
to a single sequence (it needs its allocator, it ends) is entered under the value of the clock at which
it will happen:

    clock      0    1    2    3    4    5
    due                  [A]       [B]         A's table is full when the clock is 2
    ending                    [B]       [A]    B has its last token when the clock is 3

Under a policy that grows by single blocks a sequence is due once. From then on it keeps pace: it needs a block
whenever the clock has advanced by the slots of one, and is only counted, by the remainder of the clock:

    block size 4, A due at 2       counts [0, 0, 1, 0]       a block for A at 2, 6, 10, ...

An entry goes stale when its sequence leaves; it is recognised when it is read.
"""

from __future__ import annotations

from typing import Protocol

from pagesim.blocks import BlockPool
from pagesim.errors import InvariantError
from pagesim.journal import GapHistogram
from pagesim.sequence import Clock, Sequence


class Promises(Protocol):
    """What holds blocks before they have numbers."""

    pool: BlockPool

    def promise(self, num_blocks: int, num_never: int) -> bool:
        """Hold ``num_blocks`` more, of which ``num_never`` slots will never be written."""
        ...


class Decoding:
    """The running sequences of which every token but the last generated one is stored.

    Args:
        pool: where their blocks are.
        bulk: whether the allocator needs to be called only when a table is full.
        grows_by_block: whether it then takes one block of the pool, any one.
    """

    __slots__ = (
        "_context_base",
        "_due",
        "_ending",
        "_num_measured",
        "_num_never",
        "_pace",
        "block_size",
        "bulk",
        "clock",
        "grows_by_block",
        "last_tick",
        "newcomers",
        "num_entries",
        "sequences",
    )

    def __init__(self, pool: BlockPool, *, bulk: bool, grows_by_block: bool = False) -> None:
        self.block_size = pool.block_size
        self.bulk = bulk
        self.grows_by_block = grows_by_block
        self.clock = Clock(pool)
        self.sequences: dict[Sequence, None] = {}
        self.num_entries = 0  # blocks in their tables, summed
        self._context_base = 0  # stored tokens, summed, as if the clock were 0
        self._due: dict[int, list[Sequence]] = {}
        self._ending: dict[int, list[Sequence]] = {}
        self._pace = [0] * pool.block_size  # sequences that keep pace, by the clock's remainder when they are due
        self._num_never: dict[int, int] = {}  # slots that they will never write of the blocks they get at a clock
        self.newcomers: dict[Sequence, None] = {}  # joined since the last tick
        self._num_measured = 0
        self.last_tick = 0

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def context_tokens(self) -> int:
        """Tokens that the next step attends to, the ones it stores included, summed."""
        return self._context_base + len(self.sequences) * (self.clock.value + 1)

    def join(self, sequence: Sequence) -> None:
        """Add a sequence whose table has room for its next token."""
        if not self.sequences:
            self.granted()  # nobody was due
        self._context_base += sequence.num_stored - self.clock.value
        self.num_entries += sequence.num_blocks
        sequence.join(self.clock)
        self.sequences[sequence] = None
        self.newcomers[sequence] = None
        self._num_measured += sequence.request.measured
        end = sequence.end
        if end in self._ending:
            self._ending[end].append(sequence)
        else:
            self._ending[end] = [sequence]
        self.enter_due(sequence)

    def leave(self, sequence: Sequence) -> None:
        """Remove a sequence: it has ended, or is preempted, or forks."""
        del self.sequences[sequence]
        self.num_entries -= sequence.num_blocks
        self._num_measured -= sequence.request.measured
        if sequence in self.newcomers:
            del self.newcomers[sequence]
        else:
            sequence.last_token_at = self.last_tick
        if sequence.keeps_pace:
            self._lose_pace(sequence)
        sequence.leave()
        self._context_base -= sequence.num_stored - self.clock.value

    def clear(self) -> None:
        """Forget all sequences; whoever takes them over has their counts stopped."""
        self.sequences.clear()
        self._due.clear()
        self._ending.clear()
        self._num_never.clear()
        self.newcomers.clear()
        self._pace = [0] * self.block_size
        self.num_entries = self._context_base = self._num_measured = 0

    def rejoin(self, sequence: Sequence) -> None:
        """Add a sequence that keeps pace: it holds as many blocks as it has filled or begun, some only promised.

        Nobody has been granted the next step yet. Its last token came at ``sequence.last_token_at``.
        """
        clock = self.clock.value
        sequence.due = clock + len(sequence.block_table) * self.block_size - sequence.num_stored
        self._context_base += sequence.num_stored - clock
        sequence.join(self.clock)
        self.sequences[sequence] = self.newcomers[sequence] = None
        self._num_measured += sequence.request.measured
        self._ending.setdefault(sequence.end, []).append(sequence)
        self._keep_pace(sequence, clock)
        self.num_entries += sequence.num_blocks

    # What becomes due

    def enter_due(self, sequence: Sequence) -> None:
        """Note when the sequence needs its allocator next, after a call that has given it room."""
        clock = self.clock.value
        if sequence.keeps_pace:
            sequence.number_blocks()
        if self.bulk:
            asked = sequence.num_asked
            capacity = sequence.num_blocks * self.block_size if asked is None else asked
            # Room that a plug-in's table does not have is noticed in the next step, not never.
            sequence.due = clock + max(capacity - sequence.num_stored, 1)
        else:
            sequence.due = clock + 1
        if sequence.keeps_pace:
            return  # it comes round by itself
        if sequence.due in self._due:
            self._due[sequence.due].append(sequence)
        else:
            self._due[sequence.due] = [sequence]

    def promise_due(self, memory: Promises, extra: int = 0) -> bool:
        """Hold a block for everyone whose table is full now; False: not room for all, nothing has changed.

        Args:
            memory: where they are held.
            extra: blocks that have to be free beside those.
        """
        clock = self.clock
        now, entries = clock.value, self._due.get(clock.value)
        if not self.grows_by_block:
            if not entries:
                clock.granted = now + 1
            return not entries
        entered = [each for each in entries if each.due == now and each.is_decoding] if entries else []
        entered = list(dict.fromkeys(entered)) if len(entered) > 1 else entered
        num_blocks = len(entered)
        if clock.granted == now:
            num_blocks += self._pace[now % self.block_size]
        if num_blocks or extra:
            if num_blocks + extra > memory.pool.num_free:
                return False
            for sequence in entered:
                self._keep_pace(sequence)
            memory.promise(num_blocks, self._num_never.pop(now, 0))
            self.num_entries += num_blocks
        if entries:
            del self._due[now]
        clock.granted = now + 1
        return True

    def due(self) -> list[Sequence]:
        """Return the sequences whose allocator has to be asked before the next step, and forget the entries."""
        clock, entries = self.clock, self._due.pop(self.clock.value, None)
        now = clock.value
        found = [each for each in entries if each.is_decoding and each.due == now] if entries else []
        if clock.granted == now and self._pace[now % self.block_size]:
            size = self.block_size
            found += [each for each in self.sequences if each.keeps_pace and not (each.due - now) % size]
        self._num_never.pop(now, None)
        # One that left and joined again since may stand here twice.
        return list(dict.fromkeys(found))

    def granted(self) -> None:
        """Note that all that were due have room now, or have gone."""
        self.clock.granted = self.clock.value + 1

    # Steps

    @property
    def may_end_next(self) -> bool:
        """Whether a sequence may have its last token after the next step."""
        return self.clock.value + 1 in self._ending

    def num_quiet(self, most: int, since: int) -> int:
        """Return how many steps follow, up to ``most``, after which nobody ends and before which nobody is due.

        None follow unless everybody had a token at ``since``, when the step that is in flight began.
        """
        if self.newcomers or self.last_tick != since:
            return 0
        first = self.clock.value + 1
        pace, size, due, ending = self._pace, self.block_size, self._due, self._ending
        for clock in range(first, first + most):
            if pace[clock % size] or clock in ending or clock in due:
                return clock - first
        return most

    def skip(self, num_steps: int, first: int, slope: int, gaps: GapHistogram) -> None:
        """Tick ``num_steps`` times, through quiet steps that last first, first + slope, first + 2 slope, ... ticks."""
        if self._num_measured:
            gaps.add_series(first, slope, num_steps, self._num_measured)
        self.last_tick += num_steps * first + slope * (num_steps * (num_steps - 1) // 2)
        self.clock.value += num_steps
        self.granted()

    def tick(self, now: int, gaps: GapHistogram) -> list[Sequence]:
        """Give every sequence its token, at ``now``; return those that have their last one."""
        clock, count = self.clock, self._num_measured
        if self.newcomers:
            for sequence in self.newcomers:
                if sequence.request.measured:
                    gaps.add(now - sequence.last_token_at)
                    count -= 1
            self.newcomers.clear()
        if count:
            gaps.add(now - self.last_tick, count)
        self.last_tick = now
        if clock.granted <= clock.value:
            raise InvariantError("INV-2: sequences decode that nobody has given room: plan without growth.grow")
        clock.value += 1
        entries = self._ending.pop(clock.value, None)
        if not entries:
            return []
        ended = [sequence for sequence in entries if sequence.is_decoding and sequence.end == clock.value]
        return list(dict.fromkeys(ended)) if len(ended) > 1 else ended

    # Inside

    def _keep_pace(self, sequence: Sequence, since: int = 0) -> None:
        """Count a sequence, from now on. A last block that it has had before ``since`` is in the account already."""
        sequence.keeps_pace = True
        self._pace[sequence.due % self.block_size] += 1
        last, never = self._last_block(sequence)
        if never and last >= since:
            self._num_never[last] = self._num_never.get(last, 0) + never

    def _lose_pace(self, sequence: Sequence) -> None:
        """Count a sequence no longer; its blocks have their numbers."""
        sequence.number_blocks()
        sequence.keeps_pace = False
        self._pace[sequence.due % self.block_size] -= 1
        last, never = self._last_block(sequence)
        if never and last >= self.clock.granted and last in self._num_never:
            self._num_never[last] -= never

    def _last_block(self, sequence: Sequence) -> tuple[int, int]:
        """Return the clock at which it gets its last block, and how many slots of that it will never write."""
        beyond = (sequence.end - sequence.due) % self.block_size
        return sequence.end - beyond, self.block_size - beyond if beyond else 0
