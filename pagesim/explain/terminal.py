"""The walk in the terminal: step by step, allocators side by side on the same clock. Plain without colours too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Listing
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pagesim.blocks import Copy, Op, SwapOut
from pagesim.explain import picture, words
from pagesim.explain.frames import Event, Frame, RequestView, SequenceView, Walk
from pagesim.explain.life import Life
from pagesim.units import TICKS_PER_SECOND, format_time

COLOURS: Final = ("cyan", "yellow", "magenta", "green", "blue", "red", "bright_cyan", "bright_magenta")
MOST_SEQUENCES: Final = 10
"""Sequences of which a step shows the block tables."""

NARROWEST: Final = 38
"""Columns that a walk needs beside another."""

_STYLES: Final[dict[str, str]] = {
    "preempted": "red",
    "swapped_out": "red",
    "refused": "red",
    "waits": "yellow",
    "copied": "magenta",
    "finished": "green",
}


def show(
    console: Console, walks: Listing[Walk], headings: Iterable[str], *, every_step: bool, unit: int | None
) -> None:
    """Print walks of the same requests: side by side if they have a clock in common, else one after the other.

    Args:
        console: where to.
        walks: what was seen.
        headings: what is shown, a sentence each.
        every_step: also those in which nothing but one more token for everybody happens.
        unit: ticks of a step where all take the same; None: every walk has steps of its own.
    """
    for heading in headings:
        console.print(Text(heading))
    for together in [walks] if unit is not None else [[walk] for walk in walks]:
        console.print(_legend(together))
        _walk(console, together, every_step=every_step, unit=unit)


def _walk(console: Console, walks: Listing[Walk], *, every_step: bool, unit: int | None) -> None:
    letters = picture.Letters(walks)
    block_size = max(walk.block_size for walk in walks)
    width = console.width // len(walks) if _fit_beside(console, walks) else console.width
    previous: list[Frame | None] = [None] * len(walks)
    quiet: list[tuple[int, list[Frame | None]]] = []
    seen = picture.instants(walks)
    for place, (time, frames) in enumerate(seen):
        pairs = list(zip(frames, previous, strict=True))
        previous = [frame or before for frame, before in pairs]
        is_first_or_last = place in (0, len(seen) - 1)
        if not every_step and not is_first_or_last and all(picture.is_quiet(*pair) for pair in pairs):
            quiet.append((time, frames))
            continue
        _say_quiet(console, quiet, unit)
        quiet = []
        _rule(console, _when(time, frames, unit))
        columns = [
            _step(walk, frame, letters, block_size, width, is_over=_is_over(walk, time))
            for walk, frame in zip(walks, frames, strict=True)
        ]
        _beside(console, columns, walks)
    _rule(console, "end" if all(walk.is_complete for walk in walks) else "end of the window")
    _beside(console, [_ending(walk, unit) for walk in walks], walks)


def _rule(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(title, style="dim", align="left"))


def tell(console: Console, lives: Listing[Life], headings: Iterable[str], *, unit: int | None) -> None:
    """Print what happened to a request, under one allocator after the other."""
    for heading in headings:
        console.print(Text(heading))
    for life in lives:
        _rule(console, f"request {life.request} under {life.row}")
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
        for name in ("step", "for") if unit is not None else ("at", "step", "for"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("what", overflow="fold")
        for moment in life.moments:
            lasts = "" if moment.until is None else duration(moment.until - moment.time, unit)
            style = _STYLES.get({"swapped": "swapped_out"}.get(moment.kind, moment.kind), "")
            at = [str(moment.time // unit)] if unit is not None else [instant(moment.time), str(moment.step)]
            table.add_row(*at, lasts, Text(moment.text, style=style))
        console.print(table)
        console.print(Text("; ".join(f"{name} {value}" for name, value in life.summary)))


def instant(time: int) -> str:
    """Return an instant as seconds, always with the same digits, so that instants line up."""
    return f"{time / TICKS_PER_SECOND:.6f} s"


def duration(time: int, unit: int | None) -> str:
    """Return how long something lasts: in steps where all take the same."""
    return format_time(time) if unit is None else words.count(time // unit, "step")


def events(events: Iterable[Event]) -> Iterator[Text]:
    """Yield a line an event."""
    for event in events:
        yield Text(f"* {event.text}", style=_STYLES.get(event.kind, ""))


def _legend(walks: Listing[Walk]) -> Text:
    used = {
        cell.mark if cell.kind not in ("live",) else "A"
        for walk in walks
        for frame in walk.frames
        for cell in _distinct(walk, frame)
    }
    shown = [f"{mark} {meaning}" for mark, meaning in picture.MEANINGS if mark in used or mark in "A+"]
    per_cell = max(picture.slots_per_cell(walk) for walk in walks)
    if per_cell > 1:
        shown.append(f"each character is one of {per_cell} slots")
    return Text("In the pool: " + "; ".join(shown), style="dim")


def _distinct(walk: Walk, frame: Frame) -> set[picture.Cell]:
    letters = picture.Letters([walk])
    return {cell for row in picture.rows(walk, frame, letters, 1) for group in row.groups for cell in group}


def _when(time: int, frames: Listing[Frame | None], unit: int | None) -> str:
    if unit is not None:
        return f"step {time // unit}"
    numbers = {frame.number for frame in frames if frame is not None}
    return f"step {words.listed(sorted(numbers))}, at {instant(time)}"


def _is_over(walk: Walk, time: int) -> bool:
    return not walk.frames or time > walk.frames[-1].start


def _say_quiet(console: Console, quiet: Listing[tuple[int, list[Frame | None]]], unit: int | None) -> None:
    if not quiet:
        return
    first, last = _when(*quiet[0], unit), _when(*quiet[-1], unit)
    steps = first if len(quiet) == 1 else f"{first} to {last}"
    text = f"{steps}: each running sequence stores one token more, and nothing else changes"
    console.print()
    console.print(Text(text, style="dim"))


def _fit_beside(console: Console, walks: Listing[Walk]) -> bool:
    return len(walks) > 1 and console.width // len(walks) >= NARROWEST


def _beside(console: Console, shown: Listing[RenderableType], walks: Listing[Walk]) -> None:
    if _fit_beside(console, walks):
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in shown:
            grid.add_column(ratio=1)
        grid.add_row(*shown)
        console.print(grid)
        return
    for item in shown:
        console.print(item)
        if len(walks) > 1:
            console.print()


def _step(
    walk: Walk, frame: Frame | None, letters: picture.Letters, block_size: int, width: int, *, is_over: bool
) -> RenderableType:
    title = Text(walk.name, style="bold")
    if frame is None:
        return Group(title, Text("all requests have ended" if is_over and walk.is_complete else "-", style="dim"))
    lines: list[RenderableType] = [title]
    lines.append(Text(f"waiting {ids(frame.waiting)} | running {ids(frame.running)} | swapped {ids(frame.swapped)}"))
    lines += events(frame.events)
    lines.append(Text(work(frame), style="bold"))
    lines += [Text(f"  {move}") for move in moves(frame, walk.block_size)]
    shown, hidden = chosen(frame)
    lines += [line for sequence in shown for line in _sequence(sequence, walk, letters)]
    if hidden:
        lines.append(Text(f"  and {words.count(hidden, 'more sequence')}", style="dim"))
    lines.append(Text(pool_title(walk, frame)))
    rows = list(picture.rows(walk, frame, letters, block_size, max((width - 13) * 4 // 5, 16)))
    lines += [_row(row, walk) for row in rows]
    if (address := where(walk, frame)) is not None:
        lines.append(Text(address, style="italic"))
    return Group(*lines)


def chosen(frame: Frame) -> tuple[list[SequenceView], int]:
    """Return the sequences that are shown, of many those first that something happened to; and how many are not."""
    sequences = frame.sequences
    if len(sequences) <= MOST_SEQUENCES:
        return list(sequences), 0
    touched = {event.request for event in frame.events}
    ranked = sorted(range(len(sequences)), key=lambda place: (sequences[place].request not in touched, place))
    kept = sorted(ranked[:MOST_SEQUENCES])
    return [sequences[place] for place in kept], len(sequences) - len(kept)


def where(walk: Walk, frame: Frame) -> str | None:
    """Return the address of a token that the step writes; None if it writes none."""
    for sequence in frame.sequences:
        if sequence.writes and sequence.table:
            return words.address(sequence, sequence.stored + sequence.writes - 1, walk.block_size)
    return None


def ids(requests: Listing[RequestView]) -> str:
    """Return the numbers of requests in a queue, in order; of many the first."""
    shown = [str(request.id) for request in requests[:10]]
    return " ".join(shown) + (f" and {len(requests) - 10} more" if len(requests) > 10 else "") if shown else "-"


def work(frame: Frame) -> str:
    """Return what a step computes."""
    done = []
    for name, num_tokens, again in frame.prefills[:8]:
        repeated = f", {again} of them again" if again else ""
        done.append(f"prefill {name} ({words.count(num_tokens, 'token')}{repeated})")
    if len(frame.prefills) > 8:
        done.append(f"{len(frame.prefills) - 8} more prefills")
    if frame.decodes:
        done.append(f"decode {words.listed(frame.decodes)}")
    return "this step: " + ("; ".join(done) or "moves blocks only")


def moves(frame: Frame, block_size: int) -> Iterator[str]:
    """Yield what a step moves before it computes, in order; of many the first."""
    for op in frame.ops[:8]:
        if isinstance(op, Copy):
            yield f"copy {_run(op.source, op, block_size)} to {_run(op.destination, op, block_size)}"
        elif isinstance(op, SwapOut):
            yield f"move {_run(op.device, op, block_size)} out to host {_run(op.host, op, block_size)}"
        else:
            yield f"bring host {_run(op.host, op, block_size)} in to {_run(op.device, op, block_size)}"
    if len(frame.ops) > 8:
        yield f"and {len(frame.ops) - 8} more moves"


def _run(start: int, op: Op, block_size: int) -> str:
    return words.places(range(start, start + op.num_blocks), block_size)


def _sequence(sequence: SequenceView, walk: Walk, letters: picture.Letters) -> Iterator[Text]:
    style = COLOURS[letters.place(sequence) % len(COLOURS)]
    head = Text(f"{letters.letter(sequence)} ", style=f"bold {style}")
    head.append(progress(sequence), style="default")
    yield head
    yield Text(f"    {holding(sequence, walk)}")


def progress(sequence: SequenceView) -> str:
    """Return how far a sequence has come."""
    text = f"{sequence.name}: {sequence.stored} of {sequence.final} stored"
    if sequence.writes:
        text += f", writes {sequence.writes}"
    return f"{text}, has ended" if sequence.retired else text


def holding(sequence: SequenceView, walk: Walk) -> str:
    """Return where a sequence's blocks are, on the device or on the host."""
    if sequence.host:
        return f"on the host: {words.places(sequence.host, walk.block_size)}"
    return table_of(sequence, walk)


def table_of(sequence: SequenceView, walk: Walk) -> str:
    """Return a block table: logical block -> physical block, with how many share it; a run by its ends."""
    table = sequence.table
    if walk.block_size == 1 and len(list(words.spans(table))) == 1:
        rest = sequence.final - sequence.stored - sequence.writes
        parts = [f"{max(min(rest, sequence.asked - sequence.stored - sequence.writes), 0)} to come"]
        if (never := sequence.asked - sequence.final) > 0:
            parts.append(f"{never} never used")
        if (beyond := len(table) - sequence.asked) > 0:
            parts.append(f"{beyond} more than asked for")
        return f"{words.places(table, 1)}: {', '.join(parts)}"
    entries = [
        f"{logical}>{block}{picture.SHARED + str(sharers) if sharers > 1 else ''}"
        for logical, (block, sharers) in enumerate(zip(table, sequence.sharers, strict=True))
    ]
    hidden = f" ... {len(entries) - 9} more ... {entries[-1]}" if len(entries) > 16 else ""
    return "table " + " ".join(entries[:8] if hidden else entries) + hidden


def pool_title(walk: Walk, frame: Frame) -> str:
    """Return the memory account of a step in a line."""
    counts = picture.account(frame)
    live, unit = counts["live"], words.noun_of(walk.block_size)
    text = (
        f"pool: {frame.num_held:,} of {words.count(frame.num_blocks, unit)} held; {live:,} of {walk.num_slots:,} slots "
    )
    text += f"live ({live / walk.num_slots:.0%})"
    wasted = [f"{counts[kind]:,} {kind}" for kind in ("reserved", "internal", "external") if counts[kind]]
    text += f"; {', '.join(wasted)}" if wasted else ""
    if frame.num_host:
        text += f"; host: {frame.num_host_held:,} of {words.count(frame.num_host, unit)} held"
    return text


def row_label(row: picture.Row, walk: Walk) -> str:
    """Return where a line of the pool begins: the first block, or slot, in it."""
    if walk.block_size == 1 or picture.slots_per_cell(walk) > 1:
        return f"slot {row.start}"
    return f"block {row.start // walk.block_size}"


def _row(row: picture.Row, walk: Walk) -> Text:
    text = Text(f"{row_label(row, walk):>11} ", style="dim", no_wrap=True)
    text.append("|", style="dim")
    for group in row.groups:
        for cell in group:
            text.append(cell.mark, style=_cell_style(cell))
        text.append("|", style="dim")
    return text


def _cell_style(cell: picture.Cell) -> str:
    if cell.owner is None:
        return "dim"
    colour = COLOURS[cell.owner % len(COLOURS)]
    return {"written": f"bold reverse {colour}", "live": f"bold {colour}", "shared": f"bold underline {colour}"}.get(
        cell.kind, f"dim {colour}"
    )


def _ending(walk: Walk, unit: int | None) -> RenderableType:
    lines: list[RenderableType] = [Text(walk.name, style="bold"), *events(walk.ending)]
    if walk.is_complete:
        at = "" if unit is not None else f", at {instant(walk.end)}"
        lines.append(Text(f"all requests have ended after {words.count(walk.num_steps, 'step')}{at}"))
    lines.append(Text(f"in a run, steps are taken like this: {walk.path}", style="dim"))
    return Group(*lines)
