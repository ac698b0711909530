"""A backend that measures: its steps are kept whether or not the experiment asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagesim import experiment_file
from pagesim.backend import FakeBackend, Machine
from pagesim.experiment import plan
from pagesim.runs import Run


class Measuring(FakeBackend):
    """Says that its durations are worth keeping."""

    measures = True

    def __init__(self, machine: Machine) -> None:
        super().__init__(7 * machine.block_size, keep=False)


class Pricing(Measuring):
    measures = False


@pytest.mark.parametrize(("backend", "is_kept"), [("Measuring", True), ("Pricing", False)])
def test_steps_of_a_backend_that_measures_are_kept(backend: str, is_kept: bool) -> None:
    data = {
        "name": "measured",
        "model": "opt-13b",
        "device": "a100-40gb",
        "memory": {"kv_cache": "2 GiB"},
        "backend": f"{Path(__file__).name}:{backend}",
        "workload": {
            "num_requests": 3,
            "arrivals": {"process": "poisson", "rate": 1.0},
            "lengths": {"dataset": "sharegpt"},
        },
        "allocators": {"paged": {"policy": "paged"}},
        "ideal": False,
    }
    (spec,) = plan(experiment_file.from_dict(data, base_dir=Path(__file__).parent))
    outcome = Run(spec).execute()
    assert bool(outcome.steps) == is_kept
    if is_kept:
        assert outcome.path == "one by one: every step is looked at"
        assert sum(len(part["start_s"]) for part in outcome.steps) == outcome.summary["iterations"]
