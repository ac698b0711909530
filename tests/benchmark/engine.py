"""How fast the engine is: ``python -m tests.benchmark.engine [--requests 10000 ...] [--out DIR]``.

Requests as long as ShareGPT's, Poisson arrivals, 256 running sequences at most, block size 16, with the memory
account and the timeline on. Each case runs in a process of its own, so that its peak memory is its own. Seconds
depend on the machine and on what else it does; the counts do not, and tests hold them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from pagesim import experiment_file
from pagesim.experiment import plan
from pagesim.results import host
from pagesim.runs import Run

RATES: Final = {"low": 0.1, "saturation": 28.0, "overload": 60.0, "scarce": 28.0}
"""Requests per second: a batch of about one, of about 256, and a queue that only grows. ``scarce`` has a quarter of
the memory, so that requests are preempted all the time."""

MEMORY: Final = {"scarce": "20 GiB"}

ALLOCATORS: Final[dict[str, dict[str, Any]]] = {
    "max": {"policy": "contiguous", "reserve": "max"},
    "pow2": {"policy": "contiguous", "reserve": "pow2"},
    "oracle": {"policy": "contiguous", "reserve": "oracle"},
    "paged": {"policy": "paged"},
    "copy_on_write": {"policy": "copy_on_write"},
    "swapping": {"policy": "swapping"},
}

SCHEDULERS: Final = ("chunked", "mixed", "prefill_first", "static")


@dataclass(frozen=True)
class Case:
    """What is timed."""

    allocator: str
    scheduler: str
    load: str
    num_requests: int
    num_samples: int = 1
    fast_forward: bool = True
    beams: bool = False


@dataclass(frozen=True)
class Timing:
    """What came out. Counts are the same on every machine."""

    case: Case
    cpu_s: float
    peak_mib: float
    iterations: int
    output_tokens: int
    events: int
    plans: int
    allocator_calls: int
    path: str


def build(case: Case) -> Run:
    """Return the run of a case."""
    data = {
        "name": "benchmark",
        "model": "llama-2-7b",
        "device": "h200",
        "memory": {"kv_cache": MEMORY.get(case.load, "80 GiB"), "host_kv_cache": "16 GiB"},
        "workload": {
            "num_requests": case.num_requests,
            "arrivals": {"process": "poisson", "rate": RATES[case.load]},
            "lengths": {"dataset": "sharegpt"},
            "sampling": {"beam_width" if case.beams else "n": case.num_samples},
        },
        "scheduler": {"policy": case.scheduler},
        "allocators": {case.allocator: ALLOCATORS[case.allocator]},
        "ideal": False,
    }
    (spec,) = plan(experiment_file.from_dict(data))
    run = Run(spec)
    run.engine.fast_forward = case.fast_forward
    return run


def execute(case: Case) -> Timing:
    """Run a case and count what it does."""
    run = build(case)
    with _counting(run) as calls:
        started = time.process_time()
        run.execute()
        spent = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    journal = run.journal
    return Timing(
        case,
        spent,
        peak,
        journal.iterations,
        journal.output_tokens,
        calls["event"],
        calls["plan"],
        calls["allocator"],
        run.engine.path,
    )


@contextmanager
def _counting(run: Run) -> Iterator[dict[str, int]]:
    """Count events, and how often the scheduler plans and the allocator is asked."""
    calls = {"event": 0, "plan": 0, "allocator": 0}

    def counted(method: Any, kind: str) -> Any:
        def call(*args: Any) -> Any:
            calls[kind] += 1
            return method(*args)

        return call

    wanted = [(run.engine, "_at", "event"), (run.scheduler, "plan", "plan")]
    wanted += [(run.allocator, verb, "allocator") for verb in ("allocate", "free", "fork", "swap_out", "swap_in")]
    changed: list[tuple[type, str, Any]] = []
    for owner, name, kind in wanted:
        # in the class that has the method: an object with methods of its own would be served in another way
        cls = next((cls for cls in type(owner).__mro__ if name in vars(cls)), None)
        if cls is not None:
            changed.append((cls, name, vars(cls)[name]))
            setattr(cls, name, counted(vars(cls)[name], kind))
    try:
        yield calls
    finally:
        for cls, name, method in changed:
            setattr(cls, name, method)


def cases(sizes: Iterable[int]) -> list[Case]:
    """Return the table's rows: everything at the smallest size, the larger ones where there is most to do."""
    sizes = sorted(sizes)
    first = sizes[0]
    rows = [
        Case(allocator, scheduler, load, first // 10 if load == "low" else first)
        for load in RATES
        for allocator in ALLOCATORS
        for scheduler in SCHEDULERS
        if load != "scarce" or allocator in ("paged", "swapping")
    ]
    rows += [
        Case(allocator, "chunked", "saturation", first // 4, 4) for allocator in ("paged", "copy_on_write", "swapping")
    ]
    rows += [Case("copy_on_write", "chunked", "saturation", max(first // 16, 1), 4, beams=True)]
    rows += [replace(case, fast_forward=False) for case in rows]
    for size in sizes[1:]:
        rows += [Case(allocator, "chunked", "saturation", size) for allocator in ("paged", "max")]
        rows += [Case("copy_on_write", "chunked", "saturation", size // 4, 4)]
    return rows


def table(timings: list[Timing]) -> Table:
    """Return the table for people."""
    stepwise = {timing.case: timing.cpu_s for timing in timings if not timing.case.fast_forward}
    shown = Table("allocator", "scheduler", "load", "requests", "samples", box=None, pad_edge=False)
    for title in ("CPU s", "x stepwise", "requests/s", "iterations/s", "output tok/s", "peak MiB"):
        shown.add_column(title, justify="right")
    for title in ("events", "plans", "calls"):
        shown.add_column(f"{title}/request", justify="right")
    for timing in timings:
        case, spent = timing.case, max(timing.cpu_s, 1e-9)
        if not case.fast_forward:
            continue
        slow = stepwise.get(replace(case, fast_forward=False))
        shown.add_row(
            case.allocator,
            case.scheduler,
            case.load,
            f"{case.num_requests:,}",
            f"{case.num_samples} beams" if case.beams else str(case.num_samples),
            f"{spent:.2f}",
            "" if slow is None else f"{slow / spent:.1f}",
            f"{case.num_requests / spent:,.0f}",
            f"{timing.iterations / spent:,.0f}",
            f"{timing.output_tokens / spent:,.0f}",
            f"{timing.peak_mib:.0f}",
            f"{timing.events / case.num_requests:.4f}",
            f"{timing.plans / case.num_requests:.4f}",
            f"{timing.allocator_calls / case.num_requests:.3f}",
        )
    return shown


def main() -> None:
    """Time all cases, print the table, and keep the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=[10_000], help="requests of a case")
    parser.add_argument("--out", type=Path, help="a folder for the table, the figures and their manifest")
    arguments = parser.parse_args()
    machine = host.describe()
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        timings = [pool.apply(execute, (case,)) for case in cases(arguments.requests)]
    Console(width=200).print(table(timings))
    if arguments.out is not None:
        keep(arguments.out, timings, machine, sys.orig_argv[1:])


def keep(folder: Path, timings: list[Timing], machine: dict[str, Any], command: list[str]) -> None:
    """Write ``engine.txt``, ``engine.json`` and ``manifest.json`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "engine.txt").open("w") as file:
        Console(width=200, file=file).print(table(timings))
    (folder / "engine.json").write_text(json.dumps([asdict(timing) for timing in timings], indent=1) + "\n")
    del machine["host"]["name"]
    method = "seconds of CPU time of Run.execute, one process a case; peak memory of the process, imports included"
    content = {"command": " ".join(["python", *command]), "method": method, **machine}
    (folder / "manifest.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
