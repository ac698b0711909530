"""One style for all figures: legible in print and on a slide, for colour-blind readers too; the same bytes every time.

Matplotlib and seaborn are loaded when the first figure is made, not before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from pagesim.errors import ConfigError
from pagesim.report.rows import Rows
from pagesim.results import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK: Final = "#2b2b33"
FAINT: Final = "#8a8a94"
GRID: Final = "#dedee4"
EMPTY: Final = "#e6e6ea"
"""What is not used: free memory, idle time."""
EDGE: Final = "#fefeff"
"""Between the parts of a bar."""

# Okabe and Ito, Color Universal Design (2008), without the yellow, which paper does not show.
_COLOURS: Final = ("#d55e00", "#e69f00", "#cc79a7", "#0072b2", "#009e73", "#56b4e9", "#8c564b", "#6a51a3")
_DASHES: Final = ("solid", (0, (6, 1.6)), (0, (1.4, 1.4)), (0, (6, 1.6, 1.4, 1.6)))
_MARKERS: Final = "osD^vPX*"

PARTS: Final[dict[str, tuple[str, str]]] = {
    "live": ("live", "#0072b2"),
    "cached": ("cached", "#56b4e9"),
    "reserved": ("reserved", "#e6b84f"),
    "internal": ("internal", "#d55e00"),
    "external": ("external", "#8d7a9e"),
    "free": ("free", EMPTY),
}
"""The memory account in the order of the bars: name on the figure, and colour."""

FORMATS: Final = ("svg", "png", "pdf")

_METADATA: Final[dict[str, dict[str, str | None]]] = {
    "svg": {"Date": None, "Creator": "pagesim"},
    "png": {"Software": "pagesim"},
    "pdf": {"CreationDate": None, "Creator": "pagesim", "Producer": "pagesim"},
}

_RC: Final[dict[str, Any]] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10.0,
    "axes.labelsize": 10.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "figure.dpi": 100.0,
    "savefig.dpi": 160.0,
    "svg.hashsalt": "pagesim",
    "svg.fonttype": "path",
    "path.simplify": True,
}


@contextmanager
def styled() -> Iterator[None]:
    """Let figures that are made or written inside have the style; the user's own settings come back after."""
    import matplotlib
    import seaborn

    with matplotlib.rc_context():
        seaborn.set_theme(context="paper", style="ticks", rc=_RC)
        yield


def new_figure(
    width: float = 7.2, height: float = 3.6, num_rows: int = 1, num_columns: int = 1, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure (inches) and its axes, shape (num_rows, num_columns). Inside ``styled``.

    A notebook shows the figure where it is the value of a cell.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    apart = 0.09 if num_columns > 1 else 0.05  # inches; the outermost numbers of neighbouring axes must not touch
    figure = _figure_class()(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=apart))
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False, **options)
    return figure, axes


@cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that shows itself in a notebook, though pyplot does not know it."""

        def _repr_png_(self) -> bytes:
            stream = BytesIO()
            with styled():
                self.savefig(stream, format="png", metadata=_METADATA["png"])
            return stream.getvalue()

    return NotebookFigure


def written(name: str, most: int = 26) -> str:
    """Return a name as it is written on a figure: the middle of a long one is left out, and a dollar is a dollar."""
    if len(name) > most:
        name = f"{name[: most - most // 3 - 1]}…{name[-(most // 3) :]}"
    return name.replace("$", r"\$")


def set_title(figure: Figure, title: str, where: str) -> None:
    """Set the title of a figure, with the sweep point that it shows (empty if there is none)."""
    text = f"{title} ({written(where, 60)})" if where else title
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold")


class Look:
    """The colour, dashes and marker of each row, the same in every figure of an experiment."""

    def __init__(self, rows: Rows) -> None:
        self._place = {name: place for place, name in enumerate(name for name in rows.names if not rows.is_bound(name))}

    def colour(self, name: str) -> str:
        """Return a row's colour; the bound is grey."""
        place = self._place.get(name)
        return FAINT if place is None else _COLOURS[place % len(_COLOURS)]

    def line(self, name: str) -> dict[str, Any]:
        """Return keyword arguments of a row's line."""
        place = self._place.get(name)
        dashes = (0, (3, 2)) if place is None else _DASHES[place // len(_COLOURS) % len(_DASHES)]
        return {"color": self.colour(name), "linestyle": dashes}

    def marker(self, name: str) -> str:
        """Return a row's marker."""
        return "" if name not in self._place else _MARKERS[self._place[name] % len(_MARKERS)]


def label_ends(axes: Axes, ends: Mapping[str, float], look: Look, labels: Mapping[str, str] | None = None) -> None:
    """Write each row's name to the right of the axes, at the height of its line's end, without overlaps.

    Args:
        axes: whose limits are final.
        ends: the last y of each row's line.
        look: gives the colours.
        labels: what to write instead of the names, dollars escaped.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not ends:
        return
    figure.draw_without_rendering()  # only then is the height of the axes known
    names = [name for name in ends if np.isfinite(ends[name])]
    points = np.column_stack([np.ones(len(names)), [ends[name] for name in names]])
    heights = axes.transAxes.inverted().transform(axes.get_yaxis_transform().transform(points))[:, 1]
    least = 1.25 * 9.0 / 72 * figure.dpi / axes.get_window_extent().height
    for name, height in zip(names, _spread(np.clip(heights, 0, 1), least), strict=True):
        axes.annotate(
            (labels or {}).get(name, written(name)),
            (1, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=look.colour(name),
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def _spread(heights: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Return heights moved as little as needed to stand ``least`` apart, in the same order."""
    order = np.argsort(heights, kind="stable")
    groups: list[tuple[float, list[int]]] = []
    for index in order:
        groups.append((float(heights[index]), [int(index)]))
        while len(groups) > 1:
            (low, lower), (high, upper) = groups[-2], groups[-1]
            if high - low >= least * (len(lower) + len(upper)) / 2:
                break
            both = lower + upper
            groups[-2:] = [((low * len(lower) + high * len(upper)) / len(both), both)]
    moved = heights.copy()
    for centre, members in groups:
        for place, index in enumerate(members):
            moved[index] = centre + (place - (len(members) - 1) / 2) * least
    return moved


def inline_svg(figure: Figure, name: str) -> str:
    """Return a figure as an ``<svg>`` element for a page: it scales, and its ink follows the page's colours.

    The page may set ``--grid``, ``--empty`` and ``--paper``; without them the colours are those of the file.

    Args:
        figure: to be drawn.
        name: unique on the page; references inside the figure begin with it.
    """
    stream = StringIO()
    with styled():
        figure.savefig(stream, format="svg", metadata=_METADATA["svg"], transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    head, close, body = text.partition(">")
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    text = (head + close + body).replace(INK, "currentColor")
    for colour, name in ((GRID, "grid"), (EMPTY, "empty"), (EDGE, "paper")):
        text = text.replace(colour, f"var(--{name}, {colour})")
    return text


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; the end of the name says in which format.

    Raises ConfigError for another format, or if the file cannot be written.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ConfigError(f"cannot write {str(path)!r}: a figure ends in {', '.join(f'.{name}' for name in FORMATS)}")
    stream = BytesIO()
    with styled():
        figure.savefig(stream, format=kind, metadata=_METADATA[kind])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.whole(path) as temporary:
            temporary.write_bytes(stream.getvalue())
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    return path
