"""What a figure says at the pointer: the data of its lines, bars and areas, at their places in the drawing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNNAMED: Final = re.compile(r"_child\d+|_nolegend_|_container\d+")

Panel = dict[str, Any]


def hover(figure: Figure) -> list[Panel]:
    """Return the panels of a figure that has been laid out, in the coordinates of its SVG.

    A panel has its ``box`` (left, top, right, bottom), the labels of its axes, ``lines`` (name and points of
    [x, y, value of x, value of y]), ``bars`` (name, box, value) and ``areas`` (name and points of [x, value
    of x, height]).
    """
    height = figure.get_figheight() * 72
    scale = 72 / figure.dpi
    panels = []
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        box = axes.get_window_extent()
        panel = {
            "box": _round([box.x0 * scale, height - box.y1 * scale, box.x1 * scale, height - box.y0 * scale]),
            "x": axes.get_xlabel() or _shared_label(figure, axes),
            "y": axes.get_ylabel(),
            "title": _plain(axes.get_title() or axes.get_title(loc="left")),
            "lines": _lines(axes, height, scale),
            "bars": _bars(axes, height, scale),
            "areas": _areas(axes, scale),
        }
        if panel["lines"] or panel["bars"] or panel["areas"]:
            panels.append(panel)
    return panels


def _name(artist: Any) -> str | None:
    label = str(artist.get_label())
    return None if _UNNAMED.fullmatch(label) else _plain(label.removeprefix("_"))


def _plain(text: str) -> str:
    """Return text of a figure without what keeps its dollars from being mathematics."""
    return text.replace(r"\$", "$")


def _lines(axes: Axes, height: float, scale: float) -> list[dict[str, Any]]:
    found = []
    for line in axes.lines:
        name = _name(line)
        values = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
        values = values[np.isfinite(values).all(axis=1)]
        if name is None or not len(values):
            continue
        places = line.get_transform().transform(values) * scale
        places[:, 1] = height - places[:, 1]
        points = np.column_stack([places, values])
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            found.append({"name": name, "points": _digits(points)})
    return found


def _bars(axes: Axes, height: float, scale: float) -> list[dict[str, Any]]:
    rows = [label.get_text() for label in axes.get_yticklabels()] or []
    if not any(rows) and axes.get_shared_y_axes():
        first = axes.get_figure(root=True)
        rows = [label.get_text() for label in first.axes[0].get_yticklabels()] if first is not None else rows
    found = []
    for container in axes.containers:
        part = _name(container)
        for place, patch in enumerate(getattr(container, "patches", [])):
            box = patch.get_window_extent()
            if not box.width:
                continue
            words = [_plain(rows[place]) if place < len(rows) else "", part or ""]
            corners = [box.x0 * scale, height - box.y1 * scale, box.x1 * scale, height - box.y0 * scale]
            value = float(f"{patch.get_width():.5g}")
            found.append({"name": ": ".join(word for word in words if word), "box": _round(corners), "value": value})
    return found


def _areas(axes: Axes, scale: float) -> list[dict[str, Any]]:
    """Return stacked areas: a polygon runs along its lower edge, and back along its upper one."""
    found = []
    for collection in axes.collections:
        name = _name(collection)
        paths = collection.get_paths()
        if name is None or len(paths) != 1:
            continue
        vertices = np.asarray(paths[0].vertices, float)
        if len(vertices) < 5:
            continue
        count = (len(vertices) - 3) // 2
        lower, upper = vertices[1 : count + 1], vertices[count + 2 : 2 * count + 2][::-1]
        places = axes.transData.transform(lower)[:, 0] * scale
        points = np.column_stack([places, lower[:, 0], upper[:, 1] - lower[:, 1]])
        found.append({"name": name, "points": _digits(points)})
    return found


def _shared_label(figure: Figure, axes: Axes) -> str:
    """Return the label of the x axis that panels below one another have in common."""
    if not axes.get_shared_x_axes().get_siblings(axes):
        return ""
    return next((other.get_xlabel() for other in figure.axes if other.get_xlabel()), "")


def _round(values: list[float]) -> list[float]:
    return [round(float(value), 1) for value in values]


def _digits(points: NDArray[np.float64]) -> list[list[float]]:
    """Return points with the five digits that a reader can make use of."""
    return [[float(f"{value:.5g}") for value in point] for point in points]
