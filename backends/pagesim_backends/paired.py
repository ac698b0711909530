"""Executes every step twice, on a backend that measures and on the cost model, and keeps both durations.

What the two differ by is the simulator's error; a line through the measured times says which coefficients would
make it smaller.
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pagesim.backend import Backend, Machine, Step, StepResult
from pagesim.blocks import Copy
from pagesim.units import TICKS_PER_SECOND
from pagesim_backends.cost_model import Coefficients, CostModel

PARTS: Final = ("attention", "prefill", "copies", "swaps")
"""Parts of a step that a GPU backend measures; recomputed prompts count as prompts."""

COUNTS: Final = ("decodes", "context_tokens", "prompt_tokens", "copied_blocks", "swapped_blocks")


class Paired:
    """A backend that executes each step on two others and returns what the first says.

    Args:
        measured: executes the step and says how long it took.
        model: prices the same step.
    """

    exclusive = True
    measures = True

    def __init__(self, measured: Backend, model: CostModel) -> None:
        self.measured = measured
        self.model = model
        self._rows: list[tuple[float, ...]] = []

    @classmethod
    def from_machine(cls, machine: Machine, *, engine: str = "modern", **options: Any) -> Paired:
        """Return the GPU backend beside the cost model, for one row of an experiment.

        Args:
            machine: gives model, pool and seed to both.
            engine: of the cost model.
            **options: of the GPU backend.

        Raises what either of them raises.
        """
        from pagesim_backends.cuda.backend import Cuda

        return cls(Cuda.from_machine(machine, **options), CostModel.from_machine(machine, engine=engine))

    def execute(self, step: Step) -> StepResult:
        """Execute a step on both; return what was measured."""
        priced = self.model.execute(step)
        result = self.measured.execute(step)
        copied = sum(op.num_blocks for op in step.ops if isinstance(op, Copy))
        swapped = sum(op.num_blocks for op in step.ops) - copied
        prompt_tokens = sum(chunk.num_tokens for chunk in step.prefills)
        counts = (step.num_decodes, step.context_tokens, prompt_tokens, copied, swapped)
        self._rows.append((*counts, *_seconds(result), *_seconds(priced)))
        return result

    def log(self) -> Log:
        """Return all steps so far."""
        width = len(COUNTS) + 2 * (len(PARTS) + 1)
        rows = np.array(self._rows, np.float64).reshape(-1, width)
        split = (len(COUNTS), len(COUNTS) + len(PARTS) + 1)
        counts, measured, priced = np.split(rows, split, axis=1)
        return Log(*(_columns(names, part) for names, part in ((COUNTS, counts), (TIMES, measured), (TIMES, priced))))


TIMES: Final = (*PARTS, "duration")

Columns = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Line:
    """``fixed + each * count``, fitted to the times of a part.

    Attributes:
        fixed: seconds of a step in which the part occurs.
        each: seconds for each unit of the count.
        error: the root mean square of what remains, as a share of the mean time.
        num_steps: in which the part occurs.
    """

    fixed: float
    each: float
    error: float
    num_steps: int


@dataclass(frozen=True)
class Log:
    """Steps: counts, and seconds of each part as measured and as priced.

    Attributes:
        counts: a column for each of ``COUNTS``.
        measured, priced: a column for each of ``TIMES``.
    """

    counts: Columns
    measured: Columns
    priced: Columns

    @classmethod
    def join(cls, logs: Listing[Log]) -> Log:
        """Return the steps of several runs as one log."""

        def joined(columns: Listing[Columns]) -> Columns:
            return {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}

        return cls(
            joined([log.counts for log in logs]),
            joined([log.measured for log in logs]),
            joined([log.priced for log in logs]),
        )

    def fit(self, given: Coefficients) -> dict[str, Any]:
        """Return coefficients of the cost model under which attention takes what was measured.

        The time that it takes whatever the context goes to ``iteration``, for which the model has a constant; the
        rest is a factor on reading the context, at least 1. Empty where no line can be drawn.
        """
        line = self.line("attention", "context_tokens")
        if line is None:
            return {}
        read = given.kv_bytes_per_token / (given.bandwidth * given.bandwidth_share)
        iteration = given.iteration / TICKS_PER_SECOND + max(line.fixed, 0.0)
        return {"iteration": f"{iteration * 1e6:.1f} us", "attention_factor": round(max(line.each / read, 1.0), 4)}

    def error(self, part: str) -> float | None:
        """Return by how much the priced times of a part, summed, exceed the measured ones; None without any."""
        measured = float(self.measured[part].sum())
        return float(self.priced[part].sum()) / measured - 1 if measured else None

    def step_errors(self) -> npt.NDArray[np.float64]:
        """Return by how much the priced duration of each step exceeds the measured one."""
        return self.priced["duration"] / self.measured["duration"] - 1

    def line(self, part: str, count: str) -> Line | None:
        """Return the line through the measured times of a part over a count; None for fewer than three steps."""
        chosen = self.counts[count] > 0
        x, y = self.counts[count][chosen], self.measured[part][chosen]
        if len(x) < 3 or np.ptp(x) == 0:
            return None
        (fixed, each), *_ = np.linalg.lstsq(np.stack((np.ones_like(x), x), axis=1), y)
        rest = y - fixed - each * x
        return Line(float(fixed), float(each), float(np.sqrt(np.mean(rest**2)) / y.mean()), len(x))


def _seconds(result: StepResult) -> tuple[float, ...]:
    ticks = (result.attention, result.prefill + result.recompute, result.copies, result.swaps, result.duration)
    return tuple(tick / TICKS_PER_SECOND for tick in ticks)


def _columns(names: tuple[str, ...], rows: npt.NDArray[np.float64]) -> Columns:
    return dict(zip(names, rows.T, strict=True))
