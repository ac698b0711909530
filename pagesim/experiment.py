"""The composition root: an experiment file in, runs executed, a results folder out."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagesim import experiment_file
from pagesim.errors import ConfigError, PagesimError
from pagesim.experiment_file import ExperimentFile
from pagesim.experiment_file.names import check_names
from pagesim.runs import Outcome, Run, RunSpec, resolve_policies, workload_of

if TYPE_CHECKING:
    from pagesim.results import Results, ResultsWriter

Watch = Callable[[str, int, int, int], None]
"""Called with (run, ended requests, all requests, simulated ticks)."""


def plan(file: ExperimentFile) -> list[RunSpec]:
    """Return every run of an experiment: (sweep point x allocator x seed), in the order of the summary."""
    rows = list(file.config.allocators)
    if file.config.ideal:
        rows.append("ideal")
    specs: list[RunSpec] = []
    names: set[str] = set()
    for point in experiment_file.points(file.config):
        config = experiment_file.at_point(file, point)
        for allocator, seed in itertools.product(rows, config.seeds):
            name = "-".join([allocator, *(_slug(key, value) for key, value in point.items()), f"seed{seed}"])
            if name.lower() in names:  # two swept values may look alike as file names
                name = f"{name}-{len(names)}"
            names.add(name.lower())
            specs.append(RunSpec(name, allocator, point, seed, config, file.base_dir))
    return specs


def check(file: ExperimentFile, specs: Iterable[RunSpec]) -> None:
    """Build the first seed's run of every row and point, and let it go.

    Raises:
        ConfigError, PluginError, TraceError: what would stop a run before its time 0, with its place.
    """
    check_names(file)
    seen: set[tuple[str, str]] = set()
    for spec in specs:
        key = (spec.allocator, repr(spec.point))
        if key in seen:
            continue
        seen.add(key)
        with file.locate("workload"):
            workload_of(spec)
        with file.locate(*(("allocators", spec.allocator) if spec.allocator in file.config.allocators else ())):
            Run(spec)


def execute(spec: RunSpec, watch: Callable[[int, int], None] | None = None, folder: Path | None = None) -> Outcome:
    """Execute one run. What goes wrong in it comes back as ``failure``: the other runs go on.

    Args:
        spec: which one.
        watch: called now and then with (ended requests, simulated ticks).
        folder: where rows wait in temporary files; the system's by default.
    """
    try:
        return Run(spec, watch, folder).execute()
    except PagesimError as error:
        return Outcome(spec.name, failure=str(error))
    except MemoryError:
        return Outcome(spec.name, failure="the host's memory ran out")
    except Exception as error:  # a user's policy may raise anything; the run fails, the experiment goes on
        return Outcome(spec.name, failure=_where_it_broke(error))


def execute_all(
    specs: list[RunSpec], writer: ResultsWriter, jobs: int, watch: Watch | None = None
) -> Iterator[Outcome]:
    """Execute runs in ``jobs`` processes, each of which writes what its runs give; yield them as they come.

    The outcomes have no tables: those went from the run to the disk, a chunk at a time.
    """
    if jobs == 1 or len(specs) == 1:
        for spec in specs:
            yield _execute_and_write(spec, writer, _watcher(spec, watch))
        return
    import joblib

    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    yield from parallel(joblib.delayed(_execute_and_write)(spec, writer) for spec in specs)


def run_experiment(
    file: ExperimentFile,
    *,
    out: Path | None = None,
    jobs: int = 1,
    report: bool = True,
    command: str = "",
    watch: Watch | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Results:
    """Execute every run of an experiment and write its results folder.

    Args:
        file: what to run.
        out: the results folder; by default one below ``results/``.
        jobs: processes.
        report: whether to draw the plots and write the page.
        command: kept in the manifest.
        watch: told how far a run is, while there is one process.
        on_outcome: told of each run that has ended.

    Raises:
        ConfigError: before anything is written, where the experiment cannot run.
        KeyboardInterrupt: finished runs are kept, and the folder says that it was interrupted.
    """
    from pagesim.results import ResultsWriter

    specs = plan(file)
    check(file, specs)
    if getattr(resolve_policies(specs[0]).backend, "exclusive", False):
        jobs = 1  # what measures a device must have it for itself
    digest = hashlib.sha256(experiment_file.dump(file.config).encode()).hexdigest()[:8]
    writer = ResultsWriter.create(
        file.config.name,
        config_text=experiment_file.dump(file.config, file.base_dir),
        config_hash=digest,
        out=out,
        runs=[spec.name for spec in specs],
        manifest={"command": command, "seeds": file.config.seeds, "baseline": baseline(file)},
    )
    with writer:
        for outcome in execute_all(specs, writer, jobs, watch):
            if on_outcome is not None:
                on_outcome(outcome)
        results = writer.finish()
    if report:
        from pagesim.report import write_report

        write_report(results)
    return results


def baseline(file: ExperimentFile) -> str:
    """Return the row that ratios refer to: the named one, or the first."""
    return file.config.baseline or next(iter(file.config.allocators))


def describe(file: ExperimentFile) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return what ``validate`` shows: (title, rows of name, value, meaning)."""
    from pagesim.describe import sections

    specs = plan(file)
    check(file, specs)
    return sections(specs)


def _execute_and_write(
    spec: RunSpec, writer: ResultsWriter, watch: Callable[[int, int], None] | None = None
) -> Outcome:
    if writer.is_orphaned:
        raise SystemExit("the process that began this experiment is gone")
    outcome = execute(spec, watch, writer.folder)
    if writer.is_orphaned:  # the folder may be another experiment's by now
        raise SystemExit("the process that began this experiment is gone")
    if outcome.failure:
        writer.fail_run(outcome.name, outcome.failure)
        return outcome
    try:
        writer.write_run(
            outcome.name,
            outcome.summary,
            outcome.requests,
            outcome.timeline,
            steps=outcome.steps,
            memory=outcome.memory,
            info={
                "workload_digest": outcome.digest,
                "skipped_trace_rows": outcome.num_skipped_rows,
                "steps_taken": outcome.path,
                "wall_s": round(outcome.wall_s, 3),
                "peak_memory_bytes": outcome.peak_memory_bytes,
            },
        )
    except OSError as error:  # a full disk fails the run whose tables it does not take; the others go on
        reason = error.strerror or error
        failure = f"its tables cannot be written to {str(writer.folder)!r}: {reason}"
        writer.fail_run(outcome.name, failure)
        return Outcome(spec.name, failure=failure)
    return replace(outcome, requests=(), timeline={}, steps=(), memory={})


def _watcher(spec: RunSpec, watch: Watch | None) -> Callable[[int, int], None] | None:
    if watch is None:
        return None
    total = spec.config.workload.num_requests or 0
    return lambda ended, now: watch(spec.name, ended, total, now)


def _where_it_broke(error: Exception) -> str:
    """Name the last line of code that an unexpected error went through."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}: {error}{where}"


def _slug(key: str, value: Any) -> str:
    """Return a sweep key and its value as part of a file name."""
    text = re.sub(r"[^A-Za-z0-9.]+", "_", f"{value}").strip("_")
    return f"{key.rsplit('.', 1)[-1]}{text}"


__all__ = ["ConfigError", "baseline", "check", "describe", "execute", "execute_all", "plan", "run_experiment"]
