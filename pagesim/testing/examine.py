"""Holding one policy to the whole contract, outside a test: what was checked, how much, and what broke."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import configuration, settings

from pagesim.testing.contract import builtin_schedulers, check_calls, check_runs, quiet
from pagesim.testing.failure import ContractError
from pagesim.testing.policies import CAPABILITIES, Policy
from pagesim.testing.workloads import preemptions

RUN_SHARE = 5
"""Programs of calls for each run under one scheduler and one way to preempt."""


@dataclass
class Report:
    """What an examination has found.

    Attributes:
        found: the capabilities that the policy has; ``lacking``: the others, which were not tested.
        schedulers, preemptions: what the runs were made with.
        tally: what happened, counted.
        failure: the shortest program that breaks a rule, None if there is none.
    """

    found: list[str]
    lacking: list[str]
    schedulers: list[str]
    preemptions: list[str]
    tally: Counter[str] = field(default_factory=Counter)
    failure: ContractError | None = None


def examine(policy: Policy, *, examples: int, seed: int) -> Report:
    """Check ``examples`` programs of calls, and a fifth as many runs for each scheduler and way to preempt.

    The same seed gives the same programs. Nothing is left on disk.
    """
    found = policy.capabilities()
    schedulers, modes = builtin_schedulers(), preemptions(found)
    report = Report(found, [name for name in CAPABILITIES if name not in found], sorted(schedulers), modes)
    chosen = settings(quiet(examples), database=None, derandomize=False)
    with _nothing_left():
        try:
            report.tally += check_calls(policy, chosen, seed)
            fewer = settings(chosen, max_examples=max(examples // RUN_SHARE, 1))
            for name, cls in schedulers.items():
                for mode in modes:
                    report.tally += check_runs(policy, {name: cls}, mode, fewer, seed)
        except ContractError as error:
            report.failure = error
    return report


@contextmanager
def _nothing_left() -> Iterator[None]:
    """Let Hypothesis keep what it wants to keep in a folder that is deleted."""
    with tempfile.TemporaryDirectory(prefix="pagesim-") as folder:
        configuration.set_hypothesis_home_dir(Path(folder))
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(None)
