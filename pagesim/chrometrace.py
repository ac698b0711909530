"""Steps of runs as a trace that Perfetto and chrome://tracing open.

The form is the JSON of the Trace Event Format (Google, "Trace Event Format", the JSON Object Format):
complete events (``X``) for steps and their parts, instants (``i``) for preemptions, counters (``C``) for
queues and memory, metadata (``M``) for names. Times are in microseconds.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pagesim.errors import ConfigError
from pagesim.results import files

Event = dict[str, Any]
Columns = Mapping[str, Any]
"""Columns of ``steps.parquet``, as arrays or lists."""

STEPS: Final = 1
PARTS: Final = 2
MEMORY: Final = 3
_THREADS: Final = {STEPS: "iterations", PARTS: "where the time goes", MEMORY: "preemptions and swaps"}

_PARTS: Final = {
    "swaps_s": "swap",
    "copies_s": "copy",
    "prefill_s": "prefill",
    "recompute_s": "recompute",
    "attention_s": "decode: attention",
    "weights_s": "decode: weights",
    "overhead_s": "overhead",
}
"""Parts of a step in the order in which they are drawn: moves come before what is computed."""

_COUNTERS: Final = {
    "requests": ("running", "waiting", "swapped"),
    "tokens in a step": ("decodes", "prefill_tokens"),
    "blocks held": ("blocks_held",),
}


def write(path: Path, runs: Mapping[str, Columns]) -> None:
    """Write a trace with a process a run; gzipped if the name ends in ``.gz``.

    Raises ConfigError if the file cannot be written.
    """
    try:
        with files.whole(path) as temporary:
            if path.suffix == ".gz":
                with temporary.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                    for line in _lines(runs):
                        packed.write(line.encode())
            else:
                with temporary.open("w", encoding="utf-8", newline="\n") as stream:
                    stream.writelines(_lines(runs))
    except OSError as error:
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def events(process: int, name: str, steps: Columns) -> Iterator[Event]:
    """Yield the events of one run, in the order of its steps.

    Args:
        process: its number in the trace, from 1.
        name: of the run.
        steps: columns of ``steps.parquet``.
    """
    yield {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "ts": 0, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": process, "tid": 0, "ts": 0, "args": {"sort_index": process}}
    for thread, title in _THREADS.items():
        yield {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "ts": 0, "args": {"name": title}}
    last: dict[str, dict[str, int]] = {}
    columns = {key: list(values) for key, values in steps.items() if key not in ("run", "allocator")}
    for number, start in enumerate(columns["start_s"]):
        row = {key: values[number] for key, values in columns.items()}
        yield from _step(process, number, start * 1e6, row)
        for title, values in _counters(row).items():
            if last.get(title) != values:  # a counter keeps its value until the next event
                last[title] = values
                yield {"ph": "C", "name": title, "pid": process, "tid": 0, "ts": start * 1e6, "args": values}


def _step(process: int, number: int, start: float, row: Mapping[str, Any]) -> Iterator[Event]:
    kinds = [kind for kind, count in (("prefill", row["prefills"]), ("decode", row["decodes"])) if count]
    yield {
        "ph": "X",
        "name": " + ".join(kinds) or "move",
        "cat": "iteration",
        "pid": process,
        "tid": STEPS,
        "ts": start,
        "dur": row["duration_s"] * 1e6,
        "args": {
            "iteration": number,
            **{key: int(row[key]) for key in ("prefills", "decodes", "tokens", "context_tokens")},
            **{key: int(row[key]) for key in ("copied_blocks", "swapped_out_blocks", "swapped_in_blocks") if row[key]},
        },
    }
    at = start
    for key, part in _PARTS.items():
        length = row[key] * 1e6
        if length > 0:
            yield {"ph": "X", "name": part, "cat": "part", "pid": process, "tid": PARTS, "ts": at, "dur": length}
            at += length
    for key, what in (
        ("preemptions_recompute", "preempted, computed again"),
        ("preemptions_swap", "preempted, swapped out"),
        ("swapped_in_blocks", "blocks swapped in"),
    ):
        if row[key]:
            arguments = {"iteration": number, "count": int(row[key])}
            yield {
                "ph": "i", "s": "t", "name": what, "cat": "memory", "pid": process, "tid": MEMORY, "ts": start,
                "args": arguments,
            }  # fmt: skip


def _counters(row: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the value of each counter during a step."""
    counts = {**row, "prefill_tokens": row["tokens"] - row["decodes"]}
    return {title: {key: int(counts[key]) for key in keys} for title, keys in _COUNTERS.items()}


def _lines(runs: Mapping[str, Columns]) -> Iterator[str]:
    """Yield the trace as text, an event a line, so that it need not be held in memory."""
    yield '{"displayTimeUnit": "ms", "otherData": {"source": "pagesim"}, "traceEvents": [\n'
    separator = ""
    for process, (name, steps) in enumerate(runs.items(), start=1):
        for event in events(process, name, steps):
            yield separator + json.dumps(event, allow_nan=False)
            separator = ",\n"
    yield "\n]}\n"
