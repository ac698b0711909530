"""The contract as tests: programs of verbs in any order, then whole runs under every scheduler."""

from __future__ import annotations

import unittest
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.stateful import run_state_machine_as_test

from pagesim import plugins
from pagesim.errors import PluginError
from pagesim.schedulers.base import Scheduler
from pagesim.testing.bench import Bench
from pagesim.testing.failure import ContractError, RuleError
from pagesim.testing.machine import ContractMachine
from pagesim.testing.policies import Factory, Policy
from pagesim.testing.server import serve
from pagesim.testing.shortest import shortest
from pagesim.testing.workloads import preemptions, servers

STEPS = 30
"""Calls in a program, at most."""

Schedulers = Mapping[str, type[Scheduler]]


def allocator_contract(
    factory: Factory, *, examples: int | None = None, schedulers: Schedulers | None = None, **options: Any
) -> type[unittest.TestCase]:
    """Return tests that hold an allocator to its contract, for pytest or unittest.

        TestDoubling = allocator_contract(Doubling)

    Capabilities (``Forks``, ``Swaps``, ``Prefixes``, ``grows_by_block``) are tested where the policy has them. A
    failing test says which rule is broken and shows the shortest program that breaks it, as Python.

    Args:
        factory: the policy's class, or any callable that makes a policy from a pool.
        examples: programs that are tried; by default as many as Hypothesis' current profile says.
        schedulers: name -> class of those that the runs are made with; by default all that come with pagesim.
        options: keyword arguments of the policy.
    """
    policy = Policy(factory, options)
    tests: dict[str, Any] = {"__doc__": f"{policy.name} keeps the contract of an allocator."}

    def test_calls_in_any_order(self: unittest.TestCase) -> None:
        check_calls(policy, settings(quiet(examples)))

    tests["test_calls_in_any_order"] = test_calls_in_any_order
    for name, cls in (schedulers or builtin_schedulers()).items():
        for preemption in preemptions(policy.capabilities()):
            test = _test_runs(policy, {name: cls}, preemption, examples)
            tests[f"test_runs_{name}_{preemption}"] = test
    return type(f"{policy.name}Contract", (unittest.TestCase,), tests)


def check_calls(policy: Policy, chosen: settings, number: int | None = None) -> Counter[str]:
    """Run programs of verbs; return what happened, counted.

    Raises ContractError with the shortest program that breaks a rule, and where no request was ever admitted.
    """
    tally: Counter[str] = Counter()
    machine: type[ContractMachine] = type("Machine", (ContractMachine,), {"policy": policy, "tally": tally})
    if number is not None:
        machine = seed(number)(machine)
    phases = [phase for phase in chosen.phases if phase is not Phase.shrink]  # ``shortest`` does it
    try:
        run_state_machine_as_test(machine, settings=settings(chosen, stateful_step_count=STEPS, phases=phases))
    except Unsatisfiable:
        raise PluginError(f"{policy.name} refuses each of {tally['pools refused']} small pools") from None
    except ContractError as error:
        if machine.broken is None:
            raise
        raise shortest(machine.broken, error) from error.__cause__
    if tally["allocate"] == tally["allocate refused"]:
        raise _never_admits(policy, tally["programs"])
    return tally


def check_runs(
    policy: Policy, schedulers: Schedulers, preemption: str, chosen: settings, number: int | None = None
) -> Counter[str]:
    """Serve random workloads; return what happened, counted. Raises ContractError with the smallest one."""
    tally: Counter[str] = Counter()

    @settings(chosen)
    @given(servers(policy, policy.capabilities(), schedulers, preemption))
    def run(arguments: dict[str, Any]) -> None:
        name = arguments.pop("scheduler")
        cls = schedulers[name]
        is_builtin = name in plugins.BUILTIN["scheduler"]
        tally.update(serve(policy.factory, scheduler=name if is_builtin else cls, **arguments))

    (run if number is None else seed(number)(run))()
    return tally


def builtin_schedulers() -> dict[str, type[Scheduler]]:
    """Return the schedulers that come with pagesim."""
    return {name: plugins.resolve("scheduler", name, Path()) for name in plugins.BUILTIN["scheduler"]}


def _test_runs(
    policy: Policy, schedulers: Schedulers, preemption: str, examples: int | None
) -> Callable[[unittest.TestCase], None]:
    def test(self: unittest.TestCase) -> None:
        chosen = quiet(examples)
        check_runs(policy, schedulers, preemption, settings(chosen, max_examples=max(chosen.max_examples // 5, 1)))

    return test


def quiet(examples: int | None) -> settings:
    """Return Hypothesis' current profile, quiet: the error says all, with a program of its own."""
    current = settings()
    return settings(
        current,
        max_examples=current.max_examples if examples is None else examples,
        deadline=None,
        verbosity=Verbosity.quiet,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[phase for phase in current.phases if phase not in (Phase.target, Phase.explain)],
        suppress_health_check=list(HealthCheck),
    )


def _never_admits(policy: Policy, num_programs: int) -> ContractError:
    bench = Bench(policy.factory, num_blocks=64, max_model_len=8, **policy.options)
    bench.admit(bench.request(prompt=1, output=1))
    expected = f"some request is admitted in {num_programs} programs"
    return ContractError(RuleError("INV-8", expected, "every allocate answered None"), bench.picture(), bench.program)
