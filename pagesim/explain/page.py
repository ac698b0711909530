"""The same walk as one page that opens offline: a slider and the arrow keys go from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Listing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pagesim.errors import ConfigError
from pagesim.explain import picture, terminal
from pagesim.explain.frames import Event, Frame, Walk
from pagesim.explain.show import Story
from pagesim.poolmap import KINDS
from pagesim.results import files

TEMPLATE: Final = "page.html.j2"
WIDTH: Final = 24
"""Cells of a line of a small pool, about; of a large one, whose cells are small, there are more."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the pool: where it begins, and its cells in groups."""

    label: str
    groups: tuple[tuple[picture.Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class _Holder:
    """A sequence, as the page shows it."""

    letter: str
    place: int
    text: str
    table: str


@dataclass(frozen=True, slots=True)
class _Column:
    """One allocator in one step; ``idle`` says so where it has none then."""

    name: str
    idle: str
    queues: tuple[tuple[str, str], ...] = ()
    events: tuple[Event, ...] = ()
    work: str = ""
    moves: tuple[str, ...] = ()
    holders: tuple[_Holder, ...] = ()
    hidden: int = 0
    pool: str = ""
    lines: tuple[_Line, ...] = ()
    address: str = ""


@dataclass(frozen=True, slots=True)
class _Step:
    """What is seen at a time."""

    title: str
    columns: tuple[_Column, ...]


def write(story: Story, path: Path) -> Path:
    """Write the page and return its path. Raises ConfigError if it cannot be written."""
    text = page(story)
    try:
        files.write_text(path, text)
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    return path


def page(story: Story) -> str:
    """Return the page as HTML. All text is escaped."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8"))
    groups = [list(story.walks)] if story.unit is not None else [[walk] for walk in story.walks]
    lives = [
        (life, [(_at(m.time, story.unit), m.step, _lasts(m.time, m.until, story.unit), m) for m in life.moments])
        for life in story.lives
    ]
    return template.render(
        title=story.title,
        headings=story.headings,
        steps=[step for walks in groups for step in _steps(walks, story.unit)] if story.walks else [],
        legend=[(_class_of(mark), mark, meaning) for mark, meaning in picture.MEANINGS],
        per_cell=max((picture.slots_per_cell(walk) for walk in story.walks), default=1),
        lives=lives,
    )


def _steps(walks: Listing[Walk], unit: int | None) -> Iterator[_Step]:
    letters = picture.Letters(walks)
    block_size = max(walk.block_size for walk in walks)
    for time, frames in picture.instants(walks):
        columns = tuple(
            _column(walk, frame, letters, block_size, time) for walk, frame in zip(walks, frames, strict=True)
        )
        numbers = [frame.number for frame in frames if frame is not None]
        title = f"step {time // unit}" if unit is not None else f"step {numbers[0]}, at {terminal.instant(time)}"
        yield _Step(title, columns)
    ends = tuple(
        _Column(walk.name, "all requests have ended", events=walk.ending) for walk in walks if walk.is_complete
    )
    if ends:
        yield _Step("end", ends)


def _column(walk: Walk, frame: Frame | None, letters: picture.Letters, block_size: int, time: int) -> _Column:
    if frame is None:
        is_over = walk.is_complete and time > walk.frames[-1].start
        return _Column(walk.name, "all requests have ended" if is_over else "no step begins here")
    shown, hidden = terminal.chosen(frame)
    return _Column(
        name=walk.name,
        idle="",
        queues=tuple((name, terminal.ids(getattr(frame, name))) for name in ("waiting", "running", "swapped")),
        events=frame.events,
        work=terminal.work(frame),
        moves=tuple(terminal.moves(frame, walk.block_size)),
        holders=tuple(
            _Holder(
                letters.letter(sequence),
                letters.place(sequence),
                terminal.progress(sequence),
                terminal.holding(sequence, walk),
            )
            for sequence in shown
        ),
        hidden=hidden,
        pool=terminal.pool_title(walk, frame),
        lines=tuple(
            _Line(terminal.row_label(row, walk), row.groups)
            for row in picture.rows(
                walk, frame, letters, block_size, WIDTH if picture.slots_per_cell(walk) == 1 else 3 * WIDTH
            )
        ),
        address=terminal.where(walk, frame) or "",
    )


def _class_of(mark: str) -> str:
    return next((name for name, drawn in _CLASSES.items() if drawn == mark), "live")


_CLASSES: Final = {
    "shared": picture.SHARED,
    **{name: picture.MARKS[code] for code, name in enumerate(KINDS)},
}


def _at(time: int, unit: int | None) -> str:
    return f"step {time // unit}" if unit is not None else terminal.instant(time)


def _lasts(time: int, until: int | None, unit: int | None) -> str:
    return "" if until is None else terminal.duration(until - time, unit)
