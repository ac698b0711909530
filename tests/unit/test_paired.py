"""Steps on two backends: what is kept of them, the errors, and the line through what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from pagesim.backend import Chunk, Step, StepResult
from pagesim.blocks import BlockOps, Copy, SwapOut
from pagesim.catalog import device, model
from pagesim.sequence import Request
from pagesim.units import TICKS_PER_SECOND, ticks
from pagesim_backends.cost_model import CostModel, coefficients
from pagesim_backends.paired import Log, Paired


def cost_model(**overrides: Any) -> CostModel:
    return CostModel(
        coefficients(
            model("llama-3.1-8b"),
            device("h200"),
            tensor_parallel=1,
            dtype_bytes=2,
            block_size=16,
            contiguous=False,
            **overrides,
        )
    )


class Slower:
    """A device on which attention takes 160 us more in a step with decodes than the cost model says."""

    def __init__(self, inner: CostModel) -> None:
        self.inner = inner

    def execute(self, step: Step) -> StepResult:
        result = self.inner.execute(step)
        more = ticks(160e-6) if step.num_decodes else 0
        return result._replace(attention=result.attention + more, duration=result.duration + more)


def decode(num_decodes: int, context: int) -> Step:
    return Step(num_decodes=num_decodes, context_tokens=context, table_entries=context // 16)


def test_the_same_backend_twice_differs_by_nothing() -> None:
    paired = Paired(cost_model(), cost_model())
    sequence = Request(0, 0, 100, 10).sequences[0]
    steps = [
        Step(prefills=[Chunk(sequence, 100, 30)]),
        decode(8, 4000),
        Step(ops=BlockOps([Copy(0, 4, 2), SwapOut(1, 7)])),
    ]
    for step in steps:
        assert paired.execute(step) == cost_model().execute(step)
    log = paired.log()
    assert log.step_errors().tolist() == [0, 0, 0]
    assert {part: log.error(part) for part in log.measured} == dict.fromkeys(log.measured, 0.0)
    assert {name: column.tolist() for name, column in log.counts.items()} == {
        "decodes": [0, 8, 0],
        "context_tokens": [0, 4000, 0],
        "prompt_tokens": [100, 0, 0],
        "copied_blocks": [0, 0, 2],
        "swapped_blocks": [0, 0, 1],
    }


def test_errors_and_the_line_say_what_the_model_leaves_out() -> None:
    inner = cost_model()
    paired = Paired(Slower(inner), inner)
    contexts = [1000, 2000, 5000, 9000]
    for context in contexts:
        paired.execute(decode(4, context))
    log = paired.log()
    per_token = inner.execute(decode(1, 1000)).attention / 1000 / TICKS_PER_SECOND
    line = log.line("attention", "context_tokens")
    assert line is not None
    assert line.fixed == pytest.approx(160e-6, rel=1e-6)
    assert line.each == pytest.approx(per_token, rel=1e-6)
    assert line.error == pytest.approx(0, abs=1e-9)
    assert line.num_steps == 4
    priced = per_token * sum(contexts)
    assert log.error("attention") == pytest.approx(priced / (priced + 4 * 160e-6) - 1)
    durations = [inner.execute(decode(4, context)).duration / TICKS_PER_SECOND for context in contexts]
    assert log.step_errors() == pytest.approx([taken / (taken + 160e-6) - 1 for taken in durations])


def test_the_fitted_model_takes_what_was_measured() -> None:
    inner = cost_model()
    first, second = (Paired(Slower(inner), inner) for _ in range(2))
    for context in (1000, 2000):
        first.execute(decode(4, context))
        second.execute(decode(8, 3 * context))
    log = Log.join([first.log(), second.log()])
    assert log.counts["context_tokens"].tolist() == [1000, 2000, 3000, 6000]
    fitted = log.fit(inner.coefficients)
    assert fitted == {"iteration": "1160.0 us", "attention_factor": 1.015}
    again = cost_model(**fitted)
    for context in (500, 5000):
        step = decode(4, context)
        assert again.execute(step).duration == pytest.approx(Slower(inner).execute(step).duration, rel=1e-6)
    assert Log.join([first.log()]).fit(inner.coefficients) == {}  # two steps: no line


def test_a_part_that_does_not_occur_has_no_error_and_no_line() -> None:
    paired = Paired(cost_model(), cost_model())
    for _ in range(3):
        paired.execute(decode(2, 500))
    log = paired.log()
    assert log.error("swaps") is None
    assert log.line("swaps", "swapped_blocks") is None
    assert log.line("attention", "context_tokens") is None  # one context only: no slope
