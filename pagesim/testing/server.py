"""A whole run over a small pool, on a backend that moves named tokens and looks every rule up in each step.

    serve(Doubling, num_blocks=4, block_size=2, scheduler="chunked", requests=[(0, 3, 5), (0, 2, 4)])

Requests are (arrival, prompt, output[, sequences[, estimate[, group]]]), in ticks and tokens; samples of different
lengths are given as a tuple of outputs. The run is made twice, with and without fast-forwarding,
and twice more on a backend that only prices steps, if it can be served by numbers. Raises
ContractError, with this call, when a rule is broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Listing
from pathlib import Path
from typing import Any, NamedTuple

from pagesim import plugins
from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.backend import Backend
from pagesim.beams import SeededBeams
from pagesim.blocks import BlockPool
from pagesim.engine import Engine
from pagesim.errors import InvariantError
from pagesim.fastlane import obstacle
from pagesim.journal import Journal
from pagesim.record import Record
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Limits, Scheduler
from pagesim.sequence import Request
from pagesim.testing import records
from pagesim.testing.checking import CheckingBackend
from pagesim.testing.failure import ContractError, RuleError, raised
from pagesim.testing.listed import Listed, Uneven
from pagesim.testing.policies import Factory, Policy, source_of
from pagesim.testing.program import Expression, as_test, call, given


class Arrival(NamedTuple):
    """One request of a workload: ticks and tokens. An ``output`` of its own for each sample, or one for all."""

    at: int
    prompt: int
    output: int | tuple[int, ...]
    sequences: int = 1
    estimate: int | None = None
    group: int | None = None


_DEFAULTS: dict[str, Any] = {
    "block_size": 1,
    "watermark": 0,
    "host_blocks": 0,
    "scheduler": "chunked",
    "victim": "youngest",
    "preemption": "recompute",
    "admission": "after_swapped",
    "max_num_seqs": 8,
    "beams": None,
    "prefix_tokens": 0,
}


def serve(
    policy: Factory,
    *,
    requests: Listing[tuple[Any, ...]],
    num_blocks: int,
    block_size: int = 1,
    watermark: int = 0,
    host_blocks: int = 0,
    scheduler: str | type[Scheduler] = "chunked",
    victim: str | type[Any] = "youngest",
    preemption: str = "recompute",
    admission: str = "after_swapped",
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 64,
    max_model_len: int = 64,
    beams: int | None = None,
    prefix_tokens: int = 0,
    **options: Any,
) -> Counter[str]:
    """Serve ``requests`` and check every rule; return what happened, counted.

    The counts are the journal's counters (``finished``, ``iterations``, ``copied_blocks``, ...), ``ticks`` of the run,
    ``memory_ticks`` and the like for what held admission back, and ``live_integral`` and the like: slots times ticks.

    Args:
        policy: an allocator's class, or what makes one from a pool.
        requests: see ``Arrival``; in the order of arrival.
        num_blocks, block_size, watermark: of the pool.
        host_blocks: of the host's pool; 0: there is none.
        scheduler, victim: a name, or a class.
        preemption: ``recompute``, ``swap`` or ``by_sequences``.
        admission: ``after_swapped`` or ``after_preempted``.
        max_num_seqs, max_num_batched_tokens, max_model_len: limits of the scheduler.
        beams: seed of the beams' survival; None: the sequences of a request are samples.
        prefix_tokens: length of the prefix that requests of a group begin with.
        options: keyword arguments of the policy.
    """
    written = {name: value for name, value in locals().items() if name not in ("policy", "options", "requests")}
    arrivals = [Arrival(*request) for request in requests]
    imports, shown = _shown(written)
    shown |= {**options, "requests": [_trimmed(arrival) for arrival in arrivals]}
    made = Policy(policy, options)
    run = _Run(made, written, arrivals)
    try:
        fast, tally = run.run(fast_forward=True)
        slow, _ = _Run(made, written, arrivals).run(fast_forward=False)
        records.same(fast, slow)
        counted = _Run(made, written, arrivals)
        if counted.may_be_counted:
            run = counted
            slow = _Run(made, written, arrivals).count(fast_forward=False)
            records.same(counted.count(fast_forward=True), slow)
    except ContractError:
        raise
    except Exception as error:
        broken = error if isinstance(error, RuleError) else raised(error, "a run to its end")
        program = as_test(made, "serve", [call("serve", "policy", **shown)], imports)
        cause = None if isinstance(error, RuleError | InvariantError) else error
        raise ContractError(broken, run.picture(), program) from cause
    return tally


class _Run:
    """One run of the same arguments."""

    def __init__(self, policy: Policy, arguments: dict[str, Any], arrivals: Listing[Arrival]) -> None:
        self.policy = policy
        self.arguments = arguments
        self.allocator = self._make()
        self.journal = Journal()
        pool = self.pool = self.allocator.pool
        self.account = Account(pool, pool.num_blocks * pool.block_size, getattr(self.allocator, "prefixes", None))
        victim = _class("victim", arguments["victim"])()
        self.is_oracle = any(getattr(each, "oracle", False) for each in (self.allocator, victim))
        self.requests = [self._request(number, arrival) for number, arrival in enumerate(arrivals)]
        limits = Limits(arguments["max_num_seqs"], arguments["max_num_batched_tokens"], arguments["max_model_len"])
        self.scheduler: Scheduler = _class("scheduler", arguments["scheduler"])(
            self.allocator,
            self.account,
            self.journal,
            limits,
            victim,
            twin=self._make,
            preemption=arguments["preemption"],
            admission=arguments["admission"],
        )
        self.recorder = Recorder(self.account, self.journal, self.scheduler, self.allocator)
        self.backend = CheckingBackend(self.allocator, self.account, self.requests)
        self.engine: Engine | None = None

    @property
    def may_be_counted(self) -> bool:
        """Whether the run can be served by numbers."""
        return not obstacle(self.scheduler, Uneven(), Listed(self.requests), self.recorder)

    def count(self, *, fast_forward: bool) -> Record:
        """Run to the end without looking at contents: steps are only priced."""
        self._execute(Uneven(), fast_forward=fast_forward)
        self._empty()
        return self.recorder.record(block_bytes=1)

    def run(self, *, fast_forward: bool) -> tuple[Record, Counter[str]]:
        """Run to the end; return what was recorded, and what happened."""
        self._execute(self.backend, fast_forward=fast_forward)
        record = self.recorder.record(block_bytes=1)
        records.causality(record)
        records.one_bucket(record, self.requests)
        self._empty()
        end = record.end
        happened = {**end.counters, "runs": 1, "ticks": end.time, "idle_ticks": end.idle}
        happened |= {f"{reason}_ticks": ticks for reason, ticks in end.reasons.items()}
        happened |= {f"{name}_integral": integral for name, integral in end.integrals.items()}
        return record, Counter(happened)

    def _execute(self, backend: Backend, *, fast_forward: bool) -> None:
        self.engine = Engine(
            self.scheduler,
            backend,
            Listed(self.requests),
            self.recorder,
            max_model_len=self.arguments["max_model_len"],
            fast_forward=fast_forward,
        )
        self.engine.run()

    def picture(self) -> str:
        """Return the queues and the pool as text."""
        text = self.backend.picture()
        return text if self.engine is None else f"{self.engine.picture()}\n{text}"

    def _request(self, number: int, arrival: Arrival) -> Request:
        outputs = arrival.output if isinstance(arrival.output, tuple) else (arrival.output,) * arrival.sequences
        if len(outputs) != arrival.sequences:
            raise ValueError(f"{arrival}: {len(outputs)} outputs for {arrival.sequences} sequences")
        request = Request(number, arrival.at, arrival.prompt, max(outputs), arrival.sequences, arrival.estimate)
        if len({*outputs}) > 1:
            request.give_lengths(list(outputs))
        request.oracle = self.is_oracle
        if arrival.group is not None:
            request.prefix_group, request.prefix_tokens = arrival.group, self.arguments["prefix_tokens"]
        if self.arguments["beams"] is not None and arrival.sequences > 1:
            request.beams = SeededBeams(self.arguments["beams"])
        return request

    def _make(self) -> Allocator:
        arguments = self.arguments
        host = BlockPool(arguments["host_blocks"], arguments["block_size"]) if arguments["host_blocks"] else None
        pool = BlockPool(arguments["num_blocks"], arguments["block_size"], watermark=arguments["watermark"], host=host)
        return self.policy.build(pool, arguments["max_model_len"])

    def _empty(self) -> None:
        """INV-11, on the host and in the account too; the engine has looked at the pool."""
        host, account = self.pool.host, self.account
        if host is not None and host.num_held:
            raise RuleError("INV-11", "no host block is held: every request has ended", f"{host.num_held} are")
        left = {name: getattr(account, name) for name in ("live", "useful", "internal", "external", "references")}
        if any(left.values()):
            raise RuleError("INV-11", "nothing left in the account", f"{left}")


def _class(kind: str, named: str | type[Any]) -> Any:
    return plugins.resolve(kind, named, Path()) if isinstance(named, str) else named


def _shown(written: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Return (imports, arguments) as a program writes them: without defaults, classes by their names."""
    imports: list[str] = []
    shown = given(written, _DEFAULTS)
    for kind in ("scheduler", "victim"):
        if not isinstance(shown.get(kind, ""), str):
            needed, expression = source_of(shown[kind], kind)
            imports += needed
            shown[kind] = Expression(expression)
    return imports, shown


def _trimmed(arrival: Arrival) -> tuple[Any, ...]:
    """Return a request without the defaults at its end."""
    values = list(arrival)
    while len(values) > 3 and values[-1] == Arrival._field_defaults[Arrival._fields[len(values) - 1]]:
        values.pop()
    return tuple(values)
