"""Files that are either whole or absent, and tables whose bytes depend on their content alone."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pagesim.errors import ConfigError

TEMPORARY: Final = ".part"
"""The end of the name of a file that is being written."""

BATCH: Final = 1 << 14
"""So many rows of a table are read at a time, where it is not read whole."""

Plain = str | int | float | bool | None


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes ``path`` if the block succeeds, and vanishes if it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: Any) -> None:
    """Write JSON, whole or not at all; a number that is not finite is a ValueError."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=plain) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises ConfigError with one sentence if the file cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{str(path)!r} is damaged: it is no JSON ({error})") from None


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all, without anything that varies from run to run."""
    with whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", version="2.6")


def write_row_groups(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of equal columns as the row groups of one, whole or not at all; one is in memory at a time."""
    with whole(path) as temporary, ExitStack() as stack:
        writer: Any = None
        for table in tables:
            if writer is None:
                # numbers seldom repeat: dictionaries of them would take memory, and no less of the disk
                texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
                options = {"compression": "zstd", "version": "2.6", "use_dictionary": texts or False}
                writer = stack.enter_context(pq.ParquetWriter(temporary, table.schema, **options))
            writer.write_table(table)
        if writer is None:
            raise ValueError(f"{path.name}: a table has one row group at least")
        stack.close()


def read_parquet(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns. Raises ConfigError with one sentence if it is missing or damaged."""
    with _reading(path):
        return pq.read_table(path, columns=None if names is None else list(names), partitioning=None)


def read_batches(path: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield some columns of a table as arrays, some rows at a time. Raises ConfigError as ``read_parquet`` does."""
    with _reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=list(names)):
            yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in names}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{str(path)!r} is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise ConfigError(f"{str(path)!r} is damaged: {reason[:200]}") from None


def table_of_arrays(columns: Mapping[str, Any]) -> pa.Table:
    """Return columns of equal length as a table: numbers, booleans, text or bytes, in the order given."""
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, list) and values and isinstance(values[0], bytes | str):
            arrays[name] = pa.array(values, pa.binary() if isinstance(values[0], bytes) else pa.string())
            continue
        array = np.asarray(values)
        is_text = array.dtype.kind in "OUS"
        arrays[name] = pa.array([None if v is None else str(v) for v in values], pa.string()) if is_text else array
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of unequal length: {lengths}")
    return pa.table(arrays)


def table_of_rows(rows: Sequence[Mapping[str, Any]], names: Sequence[str], types: Mapping[str, type]) -> pa.Table:
    """Return rows as a table with the columns ``names``; what a row lacks is null, and so is NaN.

    A column has its type of ``types``, else the narrowest of bool, int, float, text that holds its values.
    """
    columns = {}
    for name in names:
        values = [plain(row.get(name)) for row in rows]
        kind = types.get(name) or _narrowest(values)
        columns[name] = pa.array([_cast(value, kind, name) for value in values], _ARROW[kind])
    return pa.table(columns)


def write_csv(path: Path, table: pa.Table) -> None:
    """Write a table as CSV: floats so that they read back exactly, null as nothing, true and false."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True):
        writer.writerow([_csv(value) for value in row])
    write_text(path, stream.getvalue())


def plain(value: Any) -> Plain:
    """Return a value as text, int, float, bool or None; mappings and lists become JSON, NaN None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping | Sequence):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


_ARROW: Final[dict[type, pa.DataType]] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def _narrowest(values: Sequence[Plain]) -> type:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) == 1:
        return kinds.pop()
    return float if kinds == {int, float} or not kinds else str


def _cast(value: Plain, kind: type, name: str) -> Plain:
    if value is None or type(value) is kind:
        return value
    if kind is str:
        return json.dumps(value)
    cast: Callable[[Any], Plain] = kind
    if isinstance(value, str) or cast(value) != value:
        raise ValueError(f"column {name!r} takes {kind.__name__}, not {value!r}")
    return cast(value)


def _csv(value: Plain) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
