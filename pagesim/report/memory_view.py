"""The memory view of the page: snapshots of each allocator's pool on one clock, packed for the browser."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pagesim.errors import ConfigError
from pagesim.report.rows import Rows
from pagesim.results import Results, files, layout

MAX_ROWS: Final = 8
MAX_BYTES: Final = 4 * 2**20
"""Of all packed snapshots together: the page has to open in a second."""

COUNTED: Final = ("live", "cached", "reserved", "internal", "external", "free")

_TICKS: Final = 10**12


def memory_view(results: Results, rows: Rows) -> dict[str, Any] | None:
    """Return what the page's memory view shows, as plain data; None where no snapshots were kept.

    One run of each allocator, at the point with the highest load. All have the same instants, as far as
    they run. Each entry of ``rows`` packs its frames as base64 of a zlib stream of four planes, each of
    shape (frames, cells): the kinds, then the owners' low, middle and high bytes; every frame but the first
    is the exclusive or with the one before it.
    """
    if not rows.names:
        return None
    found = []
    for name in rows.names:
        runs = [str(run) for run in rows.at(rows.heaviest, name)["run"]]
        run = next((run for run in runs if results.has_table(run, layout.MEMORY)), None)
        if run is not None:
            found.append((name, run, _read(results, run)))
    found = [(name, run, table) for name, run, table in found if len(table["tick"])]
    if not found:
        return None
    step = max(int(table["tick"][0]) for _, _, table in found)  # widths are powers of two of the same first one
    ends = dict(zip(results.summary["run"].tolist(), results.summary["simulated_s"].tolist(), strict=True))
    packed, size = [], 0
    for name, run, table in found[:MAX_ROWS]:
        entry = _pack(name, table, step)
        size += len(entry["data"])
        if size > MAX_BYTES:
            break
        entry["end"] = ends[run]
        packed.append(entry)
    if not packed:
        return None
    times = sorted({time for entry in packed for time in entry["times"]})
    hidden = [name for name, _, _ in found[len(packed) :]]
    return {"times": times, "rows": packed, "where": str(rows.heaviest), "hidden": hidden}


def as_json(view: dict[str, Any]) -> str:
    """Return data for a script element: no text in it can end the element or begin markup."""
    text = json.dumps(view, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(results: Results, run: str) -> dict[str, Any]:
    path = results.folder / layout.RUNS / run / layout.MEMORY
    table = files.read_parquet(path)
    try:
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        columns["tick"] = [round(time * _TICKS) for time in columns["t_s"]]
        kinds = np.array([np.frombuffer(data, np.uint8) for data in columns["kind"]], np.uint8)
        owners = np.array([np.frombuffer(data, "<u4") for data in columns["owner"]], np.uint32)
        if kinds.shape != owners.shape:
            raise ValueError("kinds and owners differ in shape")
        if min(columns["tick"], default=1) <= 0:
            raise ValueError("an instant is not after the start")
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{str(path)!r} is damaged: {error}") from None
    return {**columns, "kind": kinds, "owner": owners}


def _pack(name: str, table: dict[str, Any], step: int) -> dict[str, Any]:
    """Return one allocator's frames at multiples of ``step`` ticks."""
    kept = [place for place, tick in enumerate(table["tick"]) if not tick % step]
    kinds: NDArray[np.uint8] = table["kind"][kept]
    owners: NDArray[np.uint32] = table["owner"][kept]
    planes = [kinds, *((owners >> shift & 0xFF).astype(np.uint8) for shift in (0, 8, 16))]
    for plane in planes:
        plane[1:] ^= plane[:-1].copy()
    stream = zlib.compress(b"".join(plane.tobytes() for plane in planes), 9)

    def column(key: str) -> list[Any]:
        return [table[key][place] for place in kept]

    return {
        "name": name,
        "times": column("t_s"),
        "cells": int(kinds.shape[1]),
        "slots": int(table["num_slots"][0]),
        "perCell": int(table["slots_per_cell"][0]),
        "blockSize": int(table["block_size"][0]),
        "running": column("running"),
        "waiting": column("waiting"),
        "swapped": column("swapped"),
        "refused": [int(value) for value in column("is_refused")],
        "counts": {kind: column(f"{kind}_slots") for kind in COUNTED},
        "data": base64.b64encode(stream).decode("ascii"),
    }
