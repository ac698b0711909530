"""A whole run over a small pool, on a backend that moves named tokens and looks every rule up in each step.

    serve(Doubling, num_blocks=4, block_size=2, scheduler="chunked", requests=[(0, 3, 5), (0, 2, 4)])

Requests are (arrival, prompt, output[, sequences[, estimate[, group]]]), in ticks and tokens. The run is made
twice, with and without fast-forwarding. Raises ContractError, with this call, when a rule is broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from collections.abc import Sequence as Listing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pagesim import plugins
from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.backend import Step, StepResult
from pagesim.beams import SeededBeams
from pagesim.blocks import BlockPool
from pagesim.engine import Engine
from pagesim.errors import InvariantError
from pagesim.journal import Journal
from pagesim.record import STATUSES, Record
from pagesim.recorder import Recorder
from pagesim.schedulers.base import Limits, Scheduler
from pagesim.sequence import Request, Sequence
from pagesim.testing import checks
from pagesim.testing.contents import Contents
from pagesim.testing.failure import ContractError, RuleError, raised
from pagesim.testing.picture import draw
from pagesim.testing.policies import Factory, Policy, source_of
from pagesim.testing.program import Expression, as_test, call, given


class Arrival(NamedTuple):
    """One request of a workload: ticks and tokens."""

    at: int
    prompt: int
    output: int
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
        _same(fast, slow)
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

    def run(self, *, fast_forward: bool) -> tuple[Record, Counter[str]]:
        """Run to the end; return what was recorded, and what happened."""
        self.engine = Engine(
            self.scheduler,
            self.backend,
            _Source(self.requests),
            self.recorder,
            max_model_len=self.arguments["max_model_len"],
            fast_forward=fast_forward,
        )
        self.engine.run()
        record = self.recorder.record(block_bytes=1)
        _causality(record)
        _one_bucket(record, self.requests)
        self._empty()
        names = ("finished", "refused", "preemptions_recompute", "preemptions_swap", "copied_blocks", "matched_tokens")
        return record, Counter({name: getattr(self.journal, name) for name in names} | {"runs": 1})

    def picture(self) -> str:
        """Return the queues and the pool as text."""
        text = self.backend.picture()
        return text if self.engine is None else f"{self.engine.picture()}\n{text}"

    def _request(self, number: int, arrival: Arrival) -> Request:
        request = Request(number, *arrival[:5])
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


class CheckingBackend:
    """Moves named tokens; looks up the rules of memory in each step.

    Args:
        allocator: whose pool it is.
        account: that is kept of it.
        requests: all that there are.
    """

    def __init__(self, allocator: Allocator, account: Account, requests: Listing[Request]) -> None:
        self.allocator = allocator
        self.account = account
        self.requests = requests
        self.contents = Contents(allocator.pool)

    def execute(self, step: Step) -> StepResult:
        """Perform a step. Its duration depends on everything that a cost model may look at."""
        pool, contents = self.allocator.pool, self.contents
        names = self.names()
        self._check_counts(step, names)
        checks.conservation(list(names), names, self.allocator)
        self._check_account()
        contents.perform(step.ops)
        for sequence, name in names.items():
            self._read(sequence, name, sequence.num_stored)
        work = [(chunk.sequence, chunk.num_tokens) for chunk in step.prefills]
        work += [(sequence, 1) for sequence in step.decodes]
        held = checks.owners(names, names, self.allocator)
        for sequence, num_tokens in work:
            stored = sequence.num_stored
            checks.coverage(sequence, stored + num_tokens, pool.block_size, names)
            checks.exclusive(sequence, stored, num_tokens, pool.block_size, held)
            for position in range(stored, stored + num_tokens):
                contents.device[contents.slot(sequence.block_table, position)] = token_of(sequence, position)
        for sequence, num_tokens in work:
            self._read(sequence, names[sequence], sequence.num_stored + num_tokens)
        contents.poison()
        ticks = 1 + step.num_tokens + step.context_tokens % 5 + step.table_entries % 3 + len(step.ops)
        return StepResult(ticks, overhead=ticks)

    def names(self) -> dict[Sequence, str]:
        """Return what each sequence is called: 3 or 3.1."""
        return {
            sequence: str(request.id) if len(request.sequences) == 1 else f"{request.id}.{sequence.index}"
            for request in self.requests
            for sequence in request.sequences
        }

    def picture(self) -> str:
        """Return the pool as text."""
        names = self.names()
        return draw(self.contents, checks.owners(names, names, self.allocator), checks.host_owners(names, names))

    def _read(self, sequence: Sequence, name: str, num_tokens: int) -> None:
        contents, size = self.contents, self.allocator.pool.block_size
        table = sequence.block_table or [*sequence.resident_table, *sequence.host_table]
        if not table:
            return
        on_device = len(sequence.block_table or sequence.resident_table) * size
        for position in range(num_tokens):
            memory = contents.device if position < on_device else contents.host
            slot, wanted = contents.slot(table, position), token_of(sequence, position)
            if memory.get(slot) != wanted:
                rule = "INV-9" if sequence.block_table else "INV-12"
                found = memory.get(slot, "nothing")
                raise RuleError(rule, f"{name} reads {wanted} as its token {position}", f"{found} in slot {slot}")

    def _check_counts(self, step: Step, names: dict[Sequence, str]) -> None:
        """The counts by which a cost model prices a step are those of its sequences."""
        entries = sum(len(s.block_table) for s in [*step.decodes, *(chunk.sequence for chunk in step.prefills)])
        wanted = (len(step.decodes), sum(sequence.num_stored + 1 for sequence in step.decodes), entries)
        found = (step.num_decodes, step.context_tokens, step.table_entries)
        if wanted != found:
            raise RuleError("answer", f"a step with (num_decodes, context_tokens, table_entries) {wanted}", f"{found}")

    def _check_account(self) -> None:
        account, pool = self.account, self.allocator.pool
        parts = {name: getattr(account, name) for name in ("useful", "cached", "internal", "external", "free")}
        if account.live > account.useful or min(parts.values()) < 0 or sum(parts.values()) != account.num_slots:
            found = f"{parts | {'live': account.live}} of {pool.num_blocks * pool.block_size}"
            raise RuleError("account", "parts that are not negative and sum to the pool, live within useful", found)


def token_of(sequence: Sequence, position: int) -> str:
    """Return the name of a token by its history: prefix, prompt, or the branch that it was generated on."""
    request, branch = sequence.request, sequence.branch
    if request.prefix_group is not None and position < request.prefix_tokens:
        return f"g{request.prefix_group}@{position}"
    if position < request.prompt_tokens:
        return f"{request.id}@{position}"
    while branch is not None and branch.parent is not None and position < branch.position:
        branch = branch.parent
    return f"{request.id}.{sequence.index if branch is None else branch.way}@{position}"


class _Source:
    """Requests that are known beforehand."""

    def __init__(self, requests: Listing[Request]) -> None:
        self.requests = requests

    def initial(self) -> Iterator[Request]:
        """Yield all of them."""
        yield from self.requests

    def after(self, request: Request, now: int) -> Request | None:
        """Nothing follows."""
        return None


def _causality(record: Record) -> None:
    """INV-5, for every request that has finished."""
    names = ("arrival", "admitted_at", "first_token_at", "last_token_at")
    finished = record.column("status") == STATUSES.index("finished")
    for one, other in pairwise(names):
        late = (record.column(one) > record.column(other)) & finished
        if late.any():
            raise RuleError("INV-5", f"{one} <= {other}", f"request {int(late.argmax())} has them the other way round")


def _one_bucket(record: Record, requests: Listing[Request]) -> None:
    """INV-7: one row a request, and the buckets agree with the requests."""
    rows = record.column("request").tolist()
    if rows != [request.id for request in requests]:
        raise RuleError("INV-7", f"a row for each of {len(requests)} requests, in their order", f"rows {rows}")
    for request, status in zip(requests, record.column("status"), strict=True):
        if STATUSES[status] == "unfinished" or STATUSES[status] != request.status.value:
            raise RuleError("INV-7", f"{request} finished or refused", STATUSES[status])


def _same(fast: Record, slow: Record) -> None:
    """INV-10: everything that two runs leave behind."""
    for name in ("refusals", "end", "peak_running", "edges", "bin_width"):
        one, other = getattr(fast, name), getattr(slow, name)
        if one != other:
            raise RuleError("INV-10", f"{name} as without fast-forwarding: {other}", f"{one}")
    if fast.requests.tolist() != slow.requests.tolist():
        raise RuleError(
            "INV-10", f"rows as without fast-forwarding: {slow.requests.tolist()}", f"{fast.requests.tolist()}"
        )
    if (fast.gaps.counts, fast.gaps.maximum) != (slow.gaps.counts, slow.gaps.maximum):
        raise RuleError("INV-10", f"gaps as without fast-forwarding: {slow.gaps.counts}", f"{fast.gaps.counts}")


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
