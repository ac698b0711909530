"""Rows of a trace as raw values: out of CSV with a header, or out of JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from pagesim.errors import TraceError
from pagesim.suggestions import nearest
from pagesim.workload.traces.formats import Format, guess
from pagesim.workload.traces.lines import read_lines
from pagesim.workload.traces.values import RowError, brief

Raw = tuple[object, object, object]
"""Arrival time (None without), prompt and output length, as they are written."""


def records(path: Path, layout: Format) -> tuple[bool, Iterator[tuple[int, Raw | RowError]]]:
    """Return whether there are arrival times, and the rows: line number and values, or what is wrong.

    Raises TraceError, also while rows are taken, for what concerns more than one row.
    """
    if layout.is_json:
        return True, _json_rows(path, layout)
    return _csv_rows(path, layout)


def _csv_rows(path: Path, layout: Format) -> tuple[bool, Iterator[tuple[int, Raw | RowError]]]:
    lines = read_lines(path)
    reader = csv.reader(lines)
    try:
        header = [name.strip() for name in next(reader)]
    except StopIteration:
        raise TraceError(f"{path}: is empty; a trace of format {layout.name} starts with a header") from None
    except csv.Error as error:
        raise TraceError(f"{path}:1: is no CSV: {error}") from None
    has_times = layout.time is not None and not (layout.is_time_optional and layout.time not in header)
    wanted = [*([layout.time] if has_times and layout.time else []), layout.prompt, layout.output]
    for name in wanted:
        if name not in header:
            hint = _json_hint(header) or guess(header, is_json=False) or nearest(name, header)
            columns = brief(", ".join(header), 100)
            raise TraceError(f"{path}:1: {name}: there is no such column, the header is {columns}{hint}")
        if header.count(name) > 1:
            raise TraceError(f"{path}:1: {name}: there are {header.count(name)} columns of this name, must be one")
    time = header.index(wanted[0]) if has_times else None
    return has_times, _csv_values(path, reader, header, time, header.index(layout.prompt), header.index(layout.output))


def _csv_values(
    path: Path, reader: Any, header: list[str], time: int | None, prompt: int, output: int
) -> Iterator[tuple[int, Raw | RowError]]:
    width = len(header)
    try:
        for row in reader:
            if len(row) == width:
                yield reader.line_num, (None if time is None else row[time], row[prompt], row[output])
            elif row:
                yield reader.line_num, _ragged(row, header)
    except csv.Error as error:
        raise TraceError(f"{path}:{reader.line_num}: is no CSV: {error}") from None


def _ragged(row: list[str], header: list[str]) -> RowError:
    if len(row) < len(header):
        return RowError(header[len(row)], f"is missing: the row has {len(row)} columns, the header {len(header)}")
    return RowError(header[-1], f"is followed by {len(row) - len(header)} columns more than the header has")


def _json_hint(header: list[str]) -> str:
    if not header[:1] or not header[0].startswith("{"):
        return ""
    return "; it looks like JSON lines, such as format: mooncake"


def _json_rows(path: Path, layout: Format) -> Iterator[tuple[int, Raw | RowError]]:
    decode = json.JSONDecoder(parse_float=Decimal).decode
    number = 0
    for number, line in enumerate(read_lines(path), start=1):
        if line.isspace():
            continue
        try:
            found = decode(line.rstrip())
            yield number, (found[layout.time], found[layout.prompt], found[layout.output])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            yield number, _json_problem(error, line, layout, path, is_first=number == 1)
    if not number:
        raise TraceError(f"{path}: is empty; a trace of format {layout.name} is a JSON object a line")


def _json_problem(error: Exception, line: str, layout: Format, path: Path, *, is_first: bool) -> RowError:
    if isinstance(error, KeyError):
        found = json.loads(line)
        if is_first and (hint := guess(found, is_json=True)):
            raise TraceError(f"{path}:1: {error.args[0]}: there is no such key{hint}")
        return RowError(str(error.args[0]), f"is missing; the row has {brief(', '.join(found), 100)}")
    if isinstance(error, json.JSONDecodeError):
        if is_first and "," in line and not line.lstrip().startswith(("{", "[")):
            header = [name.strip() for name in line.split(",")]
            raise TraceError(
                f"{path}:1: is no JSON, which format {layout.name} is made of{guess(header, is_json=False)}"
            )
        return RowError(
            f"column {error.colno}", f"is no JSON: {error.msg.removesuffix(' at').removesuffix(' starting')}"
        )
    if isinstance(error, ValueError | RecursionError):
        return RowError("column 1", f"is no JSON: {brief(str(error))}")
    return RowError("column 1", f"must be a JSON object with {layout.time}, {layout.prompt} and {layout.output}")
