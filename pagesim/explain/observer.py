"""Takes a frame of every step inside a window, and notes what happens to requests.

A step begins with ``schedule``; its frame shows the memory that the step has been given and the tokens
that it will store. What happened between two frames is read off their difference and the notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Listing
from dataclasses import dataclass
from itertools import chain

from pagesim.backend import Step, StepResult
from pagesim.blocks import Copy
from pagesim.engine import Engine
from pagesim.explain import words
from pagesim.explain.frames import Event, Frame, Kind, RequestView, SequenceView
from pagesim.explain.watch import Notes, watch
from pagesim.memorylog import holders as holders_of
from pagesim.poolmap import slot_map
from pagesim.sequence import Request, Sequence, SequenceStatus

Needs = Callable[[Request], int | None]
"""How many blocks an empty pool gives a request on admission; None if that is not known."""


class WindowEnded(Exception):  # noqa: N818 (a signal, no error)
    """The window has been seen: the rest of the run is of no interest."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which steps are looked at.

    Attributes:
        start, end: first step, and the one after the last: iterations, or ticks if ``is_time``.
    """

    start: int = 0
    end: int | None = None
    is_time: bool = False

    def has_begun(self, number: int, now: int) -> bool:
        """Return whether a step is not before the window."""
        return (now if self.is_time else number) >= self.start

    def is_over(self, number: int, now: int) -> bool:
        """Return whether a step is behind the window."""
        return self.end is not None and (now if self.is_time else number) >= self.end


class Observer:
    """Watches an engine that has not begun.

    Args:
        engine: whose ``on_step`` it takes.
        window: the steps of which it keeps frames; the run is stopped with WindowEnded behind it.
        needs: how many blocks a request needs.

    Attributes:
        frames: of the window, in order.
        ending: what happened after the last frame.
    """

    def __init__(self, engine: Engine, window: Window, needs: Needs) -> None:
        self.engine = engine
        self.scheduler = engine.scheduler
        self.window = window
        self.frames: list[Frame] = []
        self.ending: tuple[Event, ...] = ()
        self._needs = needs
        self._notes: Notes = watch(self.scheduler)
        self._ended: list[Request] = []
        self._seen: set[int] = set()
        self._tables: dict[Sequence, list[int]] = {}
        self._statuses: dict[int, SequenceStatus] = {}
        self._num_blocks: dict[int, tuple[int, int]] = {}
        self._record_end = engine.journal.ended
        engine.journal.ended = self._note_end
        engine.on_step = self.look

    def finish(self) -> None:
        """Note what happened after the last frame."""
        self.ending = tuple(self._endings())

    def look(self, step: Step, result: StepResult, now: int) -> None:
        """Take a frame of a step, if it lies in the window."""
        number = self.engine.journal.iterations
        if self.window.is_over(number, now):
            raise WindowEnded
        if self.window.has_begun(number, now):
            self.frames.append(self._frame(number, step, result, now))
        self._ended.clear()
        self._notes.clear()

    def _note_end(self, request: Request) -> None:
        self._record_end(request)
        self._ended.append(request)

    # A frame

    def _frame(self, number: int, step: Step, result: StepResult, now: int) -> Frame:
        scheduler, pool = self.scheduler, self.scheduler.pool
        writes = {chunk.sequence: chunk.num_tokens for chunk in step.prefills}
        writes |= dict.fromkeys(step.decodes, 1)
        holders = holders_of(self.scheduler)
        events = self._events(step, now)
        on_device = [sequence for sequence in holders if sequence.block_table]
        on_host = [sequence for sequence in holders if not sequence.block_table]
        holders = [*on_device, *on_host]  # owners of slots are places in the list of those on the device
        self._remember(holders)
        host = pool.host
        return Frame(
            number=number,
            start=now,
            result=result,
            waiting=_views(scheduler.waiting),
            running=_views(scheduler.running),
            swapped=_views(scheduler.swapped),
            sequences=tuple(self._view(sequence, writes.get(sequence, 0)) for sequence in holders),
            prefills=tuple((name(c.sequence), c.num_tokens, c.num_recomputed) for c in step.prefills),
            decodes=tuple(name(sequence) for sequence in step.decodes),
            ops=tuple(step.ops),
            events=tuple(events),
            slots=slot_map(pool, on_device, self.engine.recorder.account.num_slots, writes),
            num_blocks=pool.num_blocks,
            num_held=pool.num_held,
            num_host=0 if host is None else host.num_blocks,
            num_host_held=0 if host is None else host.num_held,
        )

    def _view(self, sequence: Sequence, num_written: int) -> SequenceView:
        request, table = sequence.request, sequence.block_table
        refs = self.scheduler.pool.ref_counts
        capacity = len(table) * self.scheduler.pool.block_size
        return SequenceView(
            name=name(sequence),
            request=request.id,
            index=sequence.index,
            prompt=request.prompt_tokens,
            output=sequence.num_output,
            generated=sequence.num_generated,
            stored=sequence.num_stored,
            writes=num_written,
            final=sequence.num_final,
            asked=capacity if sequence.num_asked is None else sequence.num_asked,
            table=run_of(table) or tuple(table),
            host=tuple(sequence.resident_table) + tuple(sequence.host_table),
            sharers=[refs[block] for block in table],
            retired=sequence.retired,
        )

    def _remember(self, holders: list[Sequence]) -> None:
        queues = self.scheduler
        self._tables = {s: list(s.block_table) for s in holders}
        self._statuses = {r.id: r.status for r in chain(queues.waiting, queues.running, queues.swapped)}
        self._num_blocks = {}
        for sequence in holders:
            held = Counter(block for each in sequence.request.sequences for block in each.block_table)
            own = sum(queues.pool.ref_counts[block] == count for block, count in held.items())
            self._num_blocks[sequence.request.id] = own, len(held) - own

    # What happened

    def _events(self, step: Step, now: int) -> list[Event]:
        events = self._endings()
        scheduler, size = self.scheduler, self.scheduler.pool.block_size
        arrived = (r for r in chain(scheduler.running, scheduler.swapped, scheduler.waiting) if r.id not in self._seen)
        for request in sorted(arrived, key=lambda request: (request.arrival, request.id)):
            self._seen.add(request.id)
            if self.frames or request.admitted_at in (None, now):  # else it came before the window
                events.append(_arrival(request))
        for taken in self._notes.taken:
            victim = taken.victim
            kind: Kind = "swapped_out" if victim.status is SequenceStatus.SWAPPED else "preempted"
            events.append(Event(kind, victim.id, now, words.preempted(taken, size), by=taken.asker.id))
        if self.frames or not now:
            events += self._changes(step, now)
        for hold in self._notes.holds.values():
            needs = self._needs(hold.request)
            left = scheduler.limits.max_num_batched_tokens - step.num_tokens
            text = words.waits(
                hold, needs=needs, block_size=size, limits=scheduler.limits, tokens_left=left, taken=self._notes.taken
            )
            events.append(Event("waits", hold.request.id, now, text))
        return events

    def _endings(self) -> list[Event]:
        events = []
        size = self.scheduler.pool.block_size
        for request in self._ended:
            at = request.arrival if request.finished_at is None else request.finished_at
            if request.id not in self._seen:
                self._seen.add(request.id)
                events.append(_arrival(request))
            if request.status is SequenceStatus.REFUSED:
                events.append(Event("refused", request.id, at, f"request {request.id} is refused: {request.reason}"))
            elif request.status is SequenceStatus.FINISHED:
                own, shared = self._num_blocks.get(request.id, (0, 0))
                noun = words.noun_of(size)
                freed = f": its {words.count(own, noun)} {'is' if own == 1 else 'are'} given back" if own else ""
                freed += f", {words.count(shared, noun)} stay with others" if shared else ""
                text = f"request {request.id} has all of its tokens{freed}"
                if any(sequence.retired for sequence in request.sequences):
                    text = f"request {request.id} has all of its tokens; its memory stays held until the batch ends"
                events.append(Event("finished", request.id, at, text))
        return events

    def _changes(self, step: Step, now: int) -> list[Event]:
        """Return what the block tables show: admissions, returns, forks, growth, copies."""
        events = []
        size = self.scheduler.pool.block_size
        copies = {op.destination: op.source for op in step.ops if isinstance(op, Copy)}
        for request in self.scheduler.running:
            was = self._statuses.get(request.id, SequenceStatus.WAITING)
            if was is SequenceStatus.WAITING and request.sequences[0].block_table:
                events.append(self._admission(request, now))
                continue
            if was is SequenceStatus.SWAPPED:
                blocks = list(dict.fromkeys(b for s in request.sequences for b in s.block_table))
                text = f"request {request.id} comes back from the host, to {words.places(blocks, size)}"
                events.append(Event("swapped_in", request.id, now, text))
                continue
            changes = [self._change(s, self._tables.get(s), copies, now) for s in request.sequences]
            found = [event for events_of in changes for event in events_of]
            events += sorted(found, key=lambda event: event.kind not in ("fork", "beam"))  # copies follow from them
        return events

    def _admission(self, request: Request, now: int) -> Event:
        size, noun = self.scheduler.pool.block_size, words.noun_of(self.scheduler.pool.block_size)
        sequence = request.sequences[0]
        table = sequence.block_table
        tokens = words.count(sequence.num_prefill, "token")
        again = " again" if request.num_preemptions_recompute else ""
        text = f"request {request.id} is admitted{again}: its {tokens} get {words.places(table, size)}"
        if sequence.num_stored:
            refs = self.scheduler.pool.ref_counts
            shared = sum(refs[block] > 1 for block in table[: sequence.num_stored // size])
            text += f", of which {shared} with {sequence.num_stored} tokens are there already"
        elif len(table) > self.scheduler.pool.blocks_for(sequence.num_prefill):
            asked = sequence.num_asked or len(table) * size
            text += f": {words.count(asked, 'slot')} are asked for"
            if len(table) * size > asked:
                text += f" and {words.count(len(table), noun)} handed out"
        return Event("admitted", request.id, now, text)

    def _change(self, sequence: Sequence, before: list[int] | None, copies: dict[int, int], now: int) -> list[Event]:
        pool, table, request = self.scheduler.pool, sequence.block_table, sequence.request.id
        size, me = pool.block_size, name(sequence)
        if before is None:
            return [self._fork(sequence, copies, now)] if table else []
        events = []
        kept = min(len(before), len(table))
        run = run_of(table)
        if run and before and before[0] != run[0]:
            text = f"{me} has outrun its reservation: it moves to {words.places(table, size)}"
            return [Event("copied", request, now, f"{text}, and what it has stored is copied there")]
        replaced = [] if run else [index for index in range(kept) if before[index] != table[index]]
        for index in replaced:
            source = copies.get(table[index])
            if source is None:
                text = f"{me} has block {table[index]} in place of {before[index]}"
                events.append(Event("copied", request, now, text))
                continue
            text = (
                f"{me} is to write into block {source}, which others hold too: "
                f"it gets a copy of its own, block {table[index]}"
            )
            events.append(Event("copied", request, now, text))
        if len(table) > len(before):
            added = table[len(before) :]
            where = words.places(added, size)
            if run:
                text = f"{me} has outrun its reservation: it grows in place by {where}"
            else:
                filled = sequence.num_stored == len(before) * size
                reason = "has filled its last block" if filled else "asks for more"
                text = f"{me} {reason}: {where} becomes its logical block {len(before)}"
                if len(added) > 1:
                    text = f"{me} {reason}: {where} become its logical blocks {len(before)} to {len(table) - 1}"
            events.append(Event("grows", request, now, text))
        return events

    def _fork(self, sequence: Sequence, copies: dict[int, int], now: int) -> Event:
        pool, table, request = self.scheduler.pool, sequence.block_table, sequence.request
        me = name(sequence)
        copied = [block for block in table if block in copies]
        shared = [block for block in table if pool.ref_counts[block] > 1]
        branch = sequence.branch
        if request.beams is not None and branch is not None and branch.parent is not None:
            parent = f"{request.id}.{branch.parent.way}"
            head, kind = f"beam {me} has died; a continuation of beam {parent} takes its place", "beam"
        else:
            head, kind = f"{me} goes on from the prompt of {request.id}.0", "fork"
        if shared:
            head += f" and shares {words.places(shared, pool.block_size)}"
        if copied:
            own = "with a copy of its own in" if not shared else "and has a copy in"
            head += f", {own} {words.places(copied, pool.block_size)}"
        return Event("beam" if kind == "beam" else "fork", request.id, now, head)


def run_of(table: Listing[int]) -> range | None:
    """Return a block table as a range if it is one: what a policy hands out that places runs."""
    return table if isinstance(table, range) else None


def name(sequence: Sequence) -> str:
    """Return how a sequence is called: ``3``, or ``3.1`` where its request has several."""
    request = sequence.request
    return str(request.id) if len(request.sequences) == 1 else f"{request.id}.{sequence.index}"


def _arrival(request: Request) -> Event:
    return Event("arrives", request.id, request.arrival, f"request {request.id} arrives: {words.length(request)}")


def _views(requests: Iterable[Request]) -> tuple[RequestView, ...]:
    return tuple(RequestView(r.id, r.prompt_tokens, r.output_tokens, len(r.sequences)) for r in requests)
