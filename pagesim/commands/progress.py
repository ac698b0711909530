"""How far an experiment is, on standard error: a bar on a terminal, elsewhere a line a finished run."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import typer

from pagesim.units import format_time

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from pagesim.runs import Outcome


class Progress(Protocol):
    """Told how an experiment goes on; a context manager around it."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        ...

    def watch(self, run: str, num_ended: int, num_requests: int, now: int) -> None:
        """Note that ``num_ended`` of a run's requests have ended at tick ``now``."""
        ...

    def note(self, outcome: Outcome) -> None:
        """Note that a run has ended."""
        ...


class Silence:
    """Shows nothing."""

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""

    def watch(self, run: str, num_ended: int, num_requests: int, now: int) -> None:
        """Show nothing."""

    def note(self, outcome: Outcome) -> None:
        """Show nothing."""


class Lines(Silence):
    """One line for each run that has ended: for a log."""

    def __init__(self, num_runs: int) -> None:
        self._num_runs = num_runs
        self._num_ended = 0

    def note(self, outcome: Outcome) -> None:
        """Write the line."""
        self._num_ended += 1
        state = f"failed: {outcome.failure}" if outcome.failure else f"done in {outcome.wall_s:.1f} s"
        typer.echo(f"[{self._num_ended}/{self._num_runs}] {outcome.name}: {state}", err=True)


class Bars(Silence):
    """A bar for the runs, with the requests and the simulated time of the one that is running."""

    def __init__(self, num_runs: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._runs: TaskID = self._bars.add_task("runs", total=float(num_runs), detail="")
        self._ended = 0.0

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bars.stop()

    def watch(self, run: str, num_ended: int, num_requests: int, now: int) -> None:
        """Move the bar by the share of the run."""
        share = num_ended / num_requests if num_requests else 0.0
        of_all = f"/{num_requests}" if num_requests else ""
        detail = f"{run}: {num_ended}{of_all} requests, {format_time(now)} simulated"
        self._bars.update(self._runs, completed=self._ended + min(share, 1.0), detail=detail)

    def note(self, outcome: Outcome) -> None:
        """Move the bar by one run; a failure stays above it."""
        self._ended += 1
        if outcome.failure:
            self._bars.console.print(f"{outcome.name} failed: {outcome.failure}", markup=False, highlight=False)
        self._bars.update(self._runs, completed=self._ended, detail="")


def progress(num_runs: int, *, quiet: bool) -> Progress:
    """Return what suits standard error."""
    if quiet:
        return Silence()
    return Bars(num_runs) if sys.stderr.isatty() else Lines(num_runs)
