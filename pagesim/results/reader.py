"""Reads a results folder: tables as DataFrames. Nothing that simulates is needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagesim.errors import ConfigError
from pagesim.experiment_file.document import parse
from pagesim.plugins import nearest
from pagesim.results import columns, files, layout
from pagesim.results.folders import known_names, latest_of, read_manifest

if TYPE_CHECKING:  # it takes long to load, and a worker that executes runs needs none of it
    import pandas as pd


class Results:
    """One results folder.

    A folder that was interrupted, or is still being written, gives what is done; ``problems`` says in
    sentences what is missing.

    Attributes:
        folder: where it is.
        manifest: who made it, where and when, and the state of each run.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def load(cls, path_or_name: Path | str, root: Path = Path("results")) -> Results:
        """Open a results folder, or the latest of an experiment by its name.

        Raises ConfigError if it is no results folder, if its manifest is damaged, or if a newer version
        of pagesim wrote it.
        """
        folder = _find(Path(path_or_name), str(path_or_name), root)
        return cls(folder, read_manifest(folder))

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.manifest.get("name", self.folder.name))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved experiment as plain data. Raises ConfigError if the file is missing or damaged."""
        path = self.folder / layout.EXPERIMENT
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}") from None
        return parse(text, str(path)).data

    @property
    def sweep_keys(self) -> list[str]:
        """The dotted keys of the sweep; each is a column of the summary."""
        return list(self.manifest.get("sweep_keys") or [])

    @property
    def baseline(self) -> str | None:
        """The row that ratios refer to: the one that the experiment names, or its first; None if it is lost."""
        try:
            named, rows = self.config.get("baseline"), list(self.config.get("allocators") or {})
        except ConfigError:
            return None
        return str(named) if named else str(rows[0]) if rows else None

    @property
    def runs(self) -> list[str]:
        """The runs that are done, in the planned order."""
        return [run for run, state in self.states.items() if state["state"] == "done"]

    @cached_property
    def states(self) -> dict[str, dict[str, Any]]:
        """What is known of each planned run: its ``state``, a failed one's ``message``, its ``workload_digest``."""
        found = {}
        for planned in self.manifest["runs"]:
            state = {"state": "planned", **planned}
            path = self.folder / layout.RUNS / planned["run"] / layout.RUN_STATE
            if self.manifest.get("state") == "running" and path.is_file():
                state |= files.read_json(path)
            found[planned["run"]] = state
        return found

    @property
    def digests(self) -> dict[str, str]:
        """The digest of the requests that each run saw, where it is known."""
        return {run: str(state["workload_digest"]) for run, state in self.states.items() if "workload_digest" in state}

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, in sentences; empty for a complete folder."""
        count = {state: sum(s["state"] == state for s in self.states.values()) for state in ("done", "planned")}
        found = []
        if count["planned"]:
            why = (
                "is still being written, or was killed"
                if self.manifest.get("state") == "running"
                else "was interrupted"
            )
            found.append(f"{self.name} {why}: {count['done']} of {len(self.states)} runs are done")
        for run, state in self.states.items():
            if state["state"] == "failed":
                found.append(f"run {run} failed: {state.get('message', 'no reason is given')}")
        return found

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a run that is done, in the planned order.

        Raises ConfigError if the file is missing or damaged.
        """
        if self.manifest.get("state") == "running":
            rows = [files.read_json(self.folder / layout.RUNS / run / layout.RUN_SUMMARY) for run in self.runs]
            names = columns.order(rows, self.sweep_keys)
            return _frame(files.table_of_rows(rows, names, columns.IDENTITY | columns.FIGURES))
        return _frame(files.read_parquet(self.folder / layout.SUMMARY_PARQUET))

    def requests(self, run: str | None = None, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Return one row a request, of one run or of all that are done; ``run`` and what it is of come first.

        Args:
            run: its name; None: all.
            names: of the columns that are wanted, which saves the memory of the others; None: all.

        Raises ConfigError if there is no such run, or if its file is missing or damaged.
        """
        return self._table(layout.REQUESTS, run, names)

    def timeline(self, run: str | None = None) -> pd.DataFrame:
        """Return one row a bin of simulated time, of one run or of all; see ``requests``."""
        return self._table(layout.TIMELINE, run)

    def steps(self, run: str | None = None) -> pd.DataFrame:
        """Return one row a step, of one run or of all; see ``requests``. They are kept with ``measure.steps``.

        Raises ConfigError where they were not kept.
        """
        for name in self.runs if run is None else [run]:
            if name in self.runs and not self.has_table(name, layout.STEPS):
                raise ConfigError(f"run {name!r} of {self.name} kept no steps; run it with measure.steps: true")
        return self._table(layout.STEPS, run)

    def has_table(self, run: str, file: str) -> bool:
        """Return whether a run has a table that is kept on request: ``layout.STEPS`` or ``layout.MEMORY``."""
        return (self.folder / layout.RUNS / run / file).is_file()

    def _table(self, file: str, run: str | None, names: Sequence[str] | None = None) -> pd.DataFrame:
        import pandas as pd

        if run is not None and run not in self.runs:
            if run in self.states:
                raise ConfigError(f"run {run!r} of {self.name} is not done; done: {_some(self.runs)}")
            raise ConfigError(f"{self.name} has no run {run!r}{nearest(run, self.runs)}; runs: {_some(self.runs)}")
        identity = self.summary.set_index("run")[["allocator", "seed", *self._sweep_columns]]
        parts = []
        for name in self.runs if run is None else [run]:
            part = _frame(files.read_parquet(self.folder / layout.RUNS / name / file, names))
            for index, (key, value) in enumerate({"run": name, **dict(identity.loc[name])}.items()):
                part.insert(index, str(key), value)
            parts.append(part)
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    @property
    def _sweep_columns(self) -> list[str]:
        return [key for key in self.sweep_keys if key in self.summary and key not in columns.IDENTITY]

    def __repr__(self) -> str:
        return f"Results({self.name!r}, {len(self.runs)} of {len(self.states)} runs, {str(self.folder)!r})"


def _find(path: Path, given: str, root: Path) -> Path:
    if (path / layout.MANIFEST).is_file():
        return path.resolve() if path.is_symlink() else path
    if path.name == layout.LATEST and path.is_file():
        path = path.parent
    for parent in (path, root / given):
        latest = latest_of(parent)
        if latest is not None:
            return latest
    if path.is_dir():
        raise ConfigError(f"{given!r} is no results folder: it has no {layout.MANIFEST}")
    if path.exists():
        raise ConfigError(f"{given!r} is a file; name a results folder, or an experiment that has been run")
    raise ConfigError(f"there are no results {given!r}{nearest(given, known_names(root))}")


def _frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") or "none"
