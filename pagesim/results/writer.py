"""Writes a results folder: a run at a time, in any order and from any process; merged at the end."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from pagesim.errors import ConfigError
from pagesim.experiment_file.document import parse
from pagesim.results import columns, derived, files, host, layout
from pagesim.results.folders import new_folder, own_folder, point_latest, read_manifest, remove

if TYPE_CHECKING:
    from pagesim.results.reader import Results

_RUN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+@-]{0,199}")


Table = Mapping[str, Any] | Iterable[Mapping[str, Any]]
"""Columns of equal length by their names; or such columns for one row group after the other."""


class ResultsWriter:
    """Writes one results folder.

    ``write_run`` and ``fail_run`` touch only the files of their run and keep nothing in memory, so a
    copy of the writer may be sent to another process; ``finish`` reads back what there is.

    As a context manager it finishes the folder, or interrupts it if an exception leaves the block.

    Attributes:
        folder: where the results are.
        runs: the names of the runs, in the planned order.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], link: bool) -> None:
        self.folder = folder
        self._manifest = manifest
        self._link = link
        self._finished = False
        self._owner = os.getpid()
        self.runs: list[str] = [run["run"] for run in manifest["runs"]]

    @classmethod
    def create(
        cls,
        name: str,
        config_text: str,
        config_hash: str,
        out: Path | None,
        runs: Iterable[str],
        manifest: Mapping[str, Any],
        root: Path = Path("results"),
    ) -> ResultsWriter:
        """Make the folder and write the experiment and a first manifest.

        Args:
            name: of the experiment.
            config_text: the resolved experiment, as YAML.
            config_hash: what tells this configuration from others, such as eight hexadecimal digits.
            out: the folder to use, instead of ``root/<name>/<UTC time>-<config hash>``. Results that it
                holds already are replaced.
            runs: their names, in the planned order.
            manifest: further keys of the manifest, such as ``command`` and ``seeds``.
            root: the folder of all experiments.

        Raises ConfigError if the folder cannot be written or holds files that are no results.
        """
        names = list(runs)
        sweep_keys = list(parse(config_text, layout.EXPERIMENT).data.get("sweep") or {})
        for run in names:
            if not _RUN_NAME.fullmatch(run):
                raise ValueError(f"{run!r} cannot name the folder of a run")
        if len({run.lower() for run in names}) < len(names):
            raise ValueError("two runs have the same name, or names that differ in case only")
        now = datetime.now(UTC)
        folder = own_folder(out) if out is not None else new_folder(root / name, now, config_hash)
        content = {
            "schema_version": layout.SCHEMA_VERSION,
            "name": name,
            "config_hash": config_hash,
            "state": "running",
            "started": now.isoformat(timespec="seconds"),
            "ended": None,
            **host.describe(),
            **manifest,
            "sweep_keys": sweep_keys,
            "runs": [{"run": run, "state": "planned"} for run in names],
        }
        writer = cls(folder, content, link=out is None)
        try:
            files.write_text(folder / layout.EXPERIMENT, config_text)
            writer._write_manifest("running")
        except OSError as error:
            raise ConfigError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
        return writer

    @classmethod
    def reopen(cls, folder: Path) -> ResultsWriter:
        """Go on with a folder that was interrupted: ``runs_to_do`` says what is missing.

        Raises ConfigError if it is no results folder, or one of another schema version.
        """
        manifest = read_manifest(folder)
        if manifest["schema_version"] != layout.SCHEMA_VERSION:
            raise ConfigError(f"{str(folder)!r} has another schema version; results of it cannot be continued")
        for leftover in folder.rglob(f".*{files.TEMPORARY}"):
            leftover.unlink(missing_ok=True)
        by_time = re.fullmatch(r"\d{8}T\d{6}Z-.*", folder.resolve().name)
        return cls(folder, manifest, link=by_time is not None)

    @property
    def is_orphaned(self) -> bool:
        """Whether this is a worker's copy, and the process that it worked for has ended."""
        return self._owner not in (os.getpid(), os.getppid())

    @property
    def runs_to_do(self) -> list[str]:
        """The runs that are not done (failed ones included), in the planned order."""
        return [run for run in self.runs if self._state(run)["state"] != "done"]

    def write_run(
        self,
        run: str,
        summary: Mapping[str, Any],
        requests: Table,
        timeline: Mapping[str, Any],
        info: Mapping[str, Any] | None = None,
        steps: Table | None = None,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep a finished run.

        Args:
            run: one of the planned ones.
            summary: its row of the summary, without ``run``.
            requests: columns of its requests, in the order of their numbers; or of some requests at a time.
            timeline: columns of its timeline, in the order of time.
            info: for the manifest: ``workload_digest``, and what varies from run to run such as ``wall_s``.
            steps: columns of its steps, if they were kept; or of some steps at a time.
            memory: columns of the snapshots of its pool, if they were kept.
        """
        path = self._run_folder(run)
        tables = {layout.REQUESTS: requests, layout.TIMELINE: timeline, layout.STEPS: steps, layout.MEMORY: memory}
        for name, table in tables.items():
            if table:
                parts = [table] if isinstance(table, Mapping) else table
                files.write_row_groups(path / name, map(files.table_of_arrays, parts))
        row = {"run": run, **summary}
        files.write_json(path / layout.RUN_SUMMARY, {name: files.plain(value) for name, value in row.items()})
        files.write_json(path / layout.RUN_STATE, {**(info or {}), "state": "done"})

    def fail_run(self, run: str, message: str, info: Mapping[str, Any] | None = None) -> None:
        """Keep why a run failed."""
        files.write_json(
            self._run_folder(run) / layout.RUN_STATE, {**(info or {}), "state": "failed", "message": message}
        )

    def finish(self) -> Results:
        """Merge the runs that are done into the summary, say in the manifest how each ended, move ``latest`` here.

        The summary depends on the runs alone, not on the order in which they were done.
        """
        return self._finish(interrupted=False)

    def interrupt(self) -> None:
        """Do the same where the rest of the runs will not be done; without any run, remove the folder."""
        if all(self._state(run)["state"] == "planned" for run in self.runs):
            self.discard()
        else:
            self._finish(interrupted=True)

    def _finish(self, *, interrupted: bool) -> Results:
        rows: list[dict[str, Any]] = []
        states = []
        for run in self.runs:
            state = self._state(run)
            if state["state"] == "done":
                rows.append(files.read_json(self.folder / layout.RUNS / run / layout.RUN_SUMMARY))
            states.append({"run": run, **state})
        keys = self._manifest.get("sweep_keys", [])
        derived.add_share_of_ideal(rows, keys)
        derived.add_common_figures(rows, keys, self.folder)
        table = files.table_of_rows(rows, columns.order(rows, keys), columns.IDENTITY | columns.FIGURES)
        files.write_parquet(self.folder / layout.SUMMARY_PARQUET, table)
        files.write_csv(self.folder / layout.SUMMARY_CSV, table)
        self._manifest["runs"] = states
        found = {state["state"] for state in states}
        self._write_manifest(
            "interrupted" if interrupted or "planned" in found else "failed" if "failed" in found else "complete"
        )
        if self._link:
            point_latest(self.folder)
        self._finished = True
        from pagesim.results.reader import Results  # loads pandas, which a run can do without

        return Results(self.folder, self._manifest)

    def discard(self) -> None:
        """Remove what was written, and the folder and its parents if they are empty then and were made for it."""
        for name in layout.OWN:
            remove(self.folder / name)
        own = [self.folder, self.folder.parent, self.folder.parent.parent] if self._link else [self.folder]
        for folder in own:
            if not any(folder.iterdir()):
                folder.rmdir()
        self._finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._finished:
            return
        if error is None:
            self.finish()
        else:
            self.interrupt()

    def _run_folder(self, run: str) -> Path:
        if run not in self.runs:
            raise ValueError(f"run {run!r} was not planned")
        path = self.folder / layout.RUNS / run
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _state(self, run: str) -> dict[str, Any]:
        path = self.folder / layout.RUNS / run / layout.RUN_STATE
        if not path.exists():
            return {"state": "planned"}
        state: dict[str, Any] = files.read_json(path)
        return state

    def _write_manifest(self, state: layout.FolderState) -> None:
        self._manifest["state"] = state
        if state != "running":
            self._manifest["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        files.write_json(self.folder / layout.MANIFEST, self._manifest)
