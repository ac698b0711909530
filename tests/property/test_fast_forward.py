"""INV-10: taking equal steps again without walking the queues changes nothing, as integers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence as Listing
from dataclasses import asdict
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.backend import Step, StepResult
from pagesim.beams import SeededBeams
from pagesim.blocks import BlockOps, BlockPool
from pagesim.record import Record
from pagesim.recorder import Recorder
from pagesim.schedulers.chunked import Chunked
from pagesim.schedulers.victims import Youngest
from pagesim.sequence import Request, Sequence
from pagesim.testing.listed import Listed, Uneven
from pagesim.testing.records import same
from tests.support.runs import SCHEDULERS, VICTIMS, Maker, Server


class Eager:
    """A plug-in without any of the attributes that let the engine skip a call."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take one block more than is needed, where there is one."""
        missing = self.pool.blocks_for(sequence.num_stored + num_tokens) - len(sequence.block_table)
        if missing > self.pool.num_free:
            return None
        if missing > 0:
            sequence.block_table += self.pool.take(min(missing + 1, self.pool.num_free))
        return BlockOps()

    def free(self, sequence: Sequence) -> None:
        """Give all back."""
        self.pool.give(sequence.block_table)
        sequence.block_table = []


class GivesItself(Paged):
    """A subclass with a ``free`` of its own: it grows by counted blocks, and is asked for the rest."""

    def free(self, sequence: Sequence) -> None:
        """Give all back."""
        super().free(sequence)


class ChangesItsMind(Paged):
    """What it has refused it may grant: it is asked for the queue's head in every step."""

    stable_refusal = False
    grows_by_block = False


class LooksAtItself(Paged):
    """Takes a block more once a sequence has generated a lot: all counts of the sequence have to be right."""

    grows_by_block = False
    counts_blocks = False

    def allocate(self, sequence: Sequence, num_tokens: int) -> BlockOps | None:
        """Take one more, where there is one, if the table grows late."""
        length = len(sequence.block_table)
        ops = super().allocate(sequence, num_tokens)
        is_late = sequence.num_generated > 12 and sequence.num_known == sequence.request.prompt_tokens + (
            sequence.num_generated
        )
        if ops is not None and 0 < length < len(sequence.block_table) and is_late and self.pool.num_free:
            sequence.block_table += self.pool.take(1)
        return ops


class Peeking(Youngest):
    """Ranks by what only an oracle gets."""

    def rank(self, num_stored: int, num_generated: int, num_left: int) -> int:
        """Return what is left, which is 0 for who is no oracle."""
        return num_left


class Middle:
    """A plug-in that chooses by nothing that a rank could say: whenever it is needed, requests have to be there."""

    def choose(self, candidates: Listing[Request]) -> Request:
        """Return the one in the middle."""
        return candidates[len(candidates) // 2]


MAKERS: dict[str, Maker] = {
    "paged": lambda pool, longest: Paged(pool),
    "copy_on_write": lambda pool, longest: CopyOnWrite(pool),
    "swapping": lambda pool, longest: Swapping(pool),
    "ideal": lambda pool, longest: Ideal(pool),
    "max": lambda pool, longest: Contiguous(pool, longest, "max", "best_fit"),
    "pow2": lambda pool, longest: Contiguous(pool, longest, "pow2", "buddy"),
    "outgrown": lambda pool, longest: Contiguous(pool, longest, "pow2", "first_fit"),
    "asked": lambda pool, longest: Asked(pool),
    "gives itself": lambda pool, longest: GivesItself(pool),
    "changes its mind": lambda pool, longest: ChangesItsMind(pool),
    "looks at itself": lambda pool, longest: LooksAtItself(pool),
    "plug-in": lambda pool, longest: Eager(pool),
}


class Asked(Paged):
    """Blocks as ``Paged`` has them, but it is called where a request comes, goes or has filled its table."""

    counts_blocks = False
    grows_by_block = False


def draw(rng: Random) -> tuple[list[Request], dict[str, Any]]:
    """Return requests and the limits of a server that is neither idle nor hopeless."""
    width = rng.choice([1, 1, 1, 2, 3])
    beams = SeededBeams(rng.randint(0, 9)) if width > 1 and rng.random() < 0.4 else None
    has_own_lengths = rng.random() < 0.4
    arrival, requests = 0, []
    for number in range(rng.choice([rng.randint(1, 9), rng.randint(1, 9), rng.randint(10, 40)])):
        arrival += rng.choice([0, 0, 5, 60, 1000, 20_000])
        output = rng.choice([1, rng.randint(2, 12), rng.randint(20, 90)])
        request = Request(number, arrival, rng.randint(1, 30), output, width, rng.choice([output, output, 3]))
        request.beams = beams
        if width > 1 and beams is None and has_own_lengths:
            request.give_lengths([rng.randint(1, output) for _ in range(width)])
        requests.append(request)
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    room = rng.choice([rng.randint(1, 3), rng.randint(1, 3), 2 * len(requests)])
    limits = {
        "max_num_seqs": rng.choice([3, 8, 50]),
        "max_model_len": rng.choice([longest, longest + 9, max(longest - 20, 2)]),
        "watermark": rng.choice([0, 1]),
        "num_slots": longest * room * width + rng.randint(0, 40),
    }
    return requests, limits


def serve(seed: int, allocator: str, scheduler: str, *, fast_forward: bool) -> tuple[Record, Server]:
    """Run the case of ``seed``."""
    rng = Random(seed)
    requests, limits = draw(rng)
    if allocator == "plug-in":  # it cannot fork, so an experiment with beams would have been refused
        for request in requests:
            request.beams = None
    block_size = 1 if allocator == "ideal" else rng.randint(1, 8)
    num_slots = limits.pop("num_slots")
    swaps = allocator == "swapping"
    server = Server(
        max(num_slots // block_size, 1),
        block_size,
        MAKERS[allocator],
        scheduler,
        {**VICTIMS, "middle": Middle, "peeking": Peeking}[rng.choice([*sorted(VICTIMS), "middle", "peeking"])],
        max_num_batched_tokens=rng.randint(8, 40) if scheduler == "chunked" else limits["max_model_len"] * 3,
        host_blocks=rng.choice([0, 4, 100]) if swaps else 0,
        options={"preemption": "swap" if swaps else "recompute"},
        num_slots=num_slots + block_size,
        **limits,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pagesim.fastlane.arrivals.Arrivals.CHUNK", rng.choice([1, 2, 5, 4096]))
        patch.setattr("pagesim.fastlane.lane.FastLane.FIRST_PAUSE", rng.choice([1, 8]))
        recorder = run(server, requests, rng, fast_forward=fast_forward)
    return recorder.record(block_bytes=1), server


def run(server: Server, requests: list[Request], rng: Random, *, fast_forward: bool) -> Recorder:
    """Serve the requests."""
    first, last = requests[0].arrival, requests[-1].arrival
    window = rng.choice([None, (first + 3, last + 500), (first, last), (first, max(first + 1, last // 2))])
    return server.run(
        requests,
        backend=Uneven(),
        fast_forward=fast_forward,
        num_bins=rng.choice([10, 1000]),
        first_bin=rng.choice([7, 1000]),
        horizon=rng.choice([None, None, rng.randint(1, 60_000)]),
        window=window,
        truncate=rng.random() < 0.5,
        source=Listed(requests, window),
    )


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@pytest.mark.parametrize("allocator", sorted(MAKERS))
@settings(max_examples=20 if settings().derandomize else 200)
@given(seed=st.integers(0, 10_000))
def test_inv_10_fast_forwarding_changes_nothing(allocator: str, scheduler: str, seed: int) -> None:
    fast, server = serve(seed, allocator, scheduler, fast_forward=True)
    slow, stepwise = serve(seed, allocator, scheduler, fast_forward=False)
    assert fast.requests.tolist() == slow.requests.tolist()
    assert (fast.bin_width, fast.edges) == (slow.bin_width, slow.edges)
    assert (fast.gaps.counts, fast.gaps.maximum) == (slow.gaps.counts, slow.gaps.maximum)
    assert fast.refusals == slow.refusals
    for part in ("opened", "closed", "end"):
        one, other = getattr(fast, part), getattr(slow, part)
        assert (one is None) == (other is None)
        assert one is None or asdict(one) == asdict(other)
    assert (fast.peak_running, fast.peak_running_in_window) == (slow.peak_running, slow.peak_running_in_window)
    assert left_behind(server) == left_behind(stepwise)


@pytest.mark.parametrize("allocator", sorted(set(MAKERS) - {"plug-in"}))
@pytest.mark.parametrize("width", [1, 3])
@settings(max_examples=20 if settings().derandomize else 200)
@given(seed=st.integers(0, 10_000))
def test_inv_10_many_steps_at_once_are_as_many_single_ones(allocator: str, width: int, seed: int) -> None:
    def run() -> tuple[Record, int]:
        rng = Random(seed)
        requests = [
            Request(number, rng.randint(0, 300) * number, rng.randint(1, 30), rng.randint(40, 400), width)
            for number in range(rng.randint(1, 3))
        ]
        requests.sort(key=lambda request: request.id)
        for before, after in itertools.pairwise(requests):
            after.arrival = max(before.arrival, after.arrival)
        server = Server(8000 // 16, 16, MAKERS[allocator], "chunked", max_model_len=500)
        recorder = server.run(requests, backend=Uneven(), source=Listed(requests), first_bin=rng.choice([100, 10**6]))
        return recorder.record(block_bytes=1), server.journal.iterations

    together, num_steps = run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pagesim.fastlane.loop.MOST_AT_ONCE", 1)
        one_by_one, same_number = run()
    assert num_steps == same_number
    same(together, one_by_one)


@pytest.mark.parametrize("allocator", ["paged", "swapping", "max", "plug-in"])
@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@settings(max_examples=15 if settings().derandomize else 200)
@given(seed=st.integers(0, 10**6))
def test_inv_10_holds_for_clients_that_wait_for_their_answers(allocator: str, scheduler: str, seed: int) -> None:
    def serve_clients(*, fast_forward: bool) -> Record:
        rng = Random(seed)
        sizes = [(rng.randint(1, 30), rng.randint(1, 40), rng.choice([0, 0, 7, 400])) for _ in range(12)]
        num_clients, coming = rng.randint(1, 4), iter(range(12))

        def ask(number: int, now: int) -> Request:
            prompt, output, think = sizes[number]
            return Request(number, now + think, prompt, output)

        def after(request: Request, now: int) -> Request | None:
            number = next(coming, None)
            return None if number is None else ask(number, now)

        first = sorted((ask(next(coming), 0) for _ in range(num_clients)), key=lambda request: request.arrival)
        server = Server(
            rng.randint(30, 80), 4, MAKERS[allocator], scheduler, max_model_len=80, host_blocks=rng.choice([0, 20])
        )
        return server.run(first, backend=Uneven(), after=after, fast_forward=fast_forward).record(block_bytes=1)

    same(serve_clients(fast_forward=True), serve_clients(fast_forward=False))


@pytest.mark.parametrize("allocator", ["paged", "max", "plug-in"])
@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@settings(max_examples=15 if settings().derandomize else 200)
@given(seed=st.integers(0, 10**6))
def test_inv_10_holds_where_a_request_arrives_just_when_a_step_ends(allocator: str, scheduler: str, seed: int) -> None:
    rng = Random(seed)
    sizes = [(rng.randint(1, 20), rng.randint(2, 60)) for _ in range(6)]
    ends: list[int] = []

    def serve_at(arrivals: list[int], *, fast_forward: bool) -> Record:
        requests = [Request(number, arrivals[number], *sizes[number]) for number in range(6)]
        server = Server(60, 4, MAKERS[allocator], scheduler, max_model_len=80)
        if not ends:
            backend = Uneven()
            execute = backend.execute

            def noted(step: Step) -> StepResult:
                result = execute(step)
                ends.append(server.sched.queues.now + result.duration)
                return result

            backend.execute = noted  # type: ignore[method-assign]
            return server.run(requests, backend=backend, fast_forward=False).record(block_bytes=1)
        source = Listed(requests)
        recorder = server.run(requests, backend=Uneven(), fast_forward=fast_forward, source=source)
        return recorder.record(block_bytes=1)

    serve_at([0, 0, 0, 10**6, 10**6, 10**6], fast_forward=False)
    early = [end for end in ends if end < 10**6]
    tied = sorted(rng.choice(early) + rng.choice([-1, 0, 0, 0, 1]) for _ in range(3))
    fast = serve_at([0, 0, 0, *tied], fast_forward=True)
    same(fast, serve_at([0, 0, 0, *tied], fast_forward=False))


def left_behind(server: Server) -> list[object]:
    """Return what must be empty at the end of a run, and is not where it was cut off."""
    account, pool = server.account, server.pool
    return [
        *(account.live, account.useful, account.internal, account.external, account.references, account.cached),
        *(pool.num_held, server.sched.num_seats, [request.id for request in server.engine.unfinished]),
        [sequence.num_stored for request in server.engine.unfinished for sequence in request.sequences],
        [len(sequence.block_table) for request in server.engine.unfinished for sequence in request.sequences],
    ]


def test_fast_forwarding_really_skips_the_queues() -> None:
    server = Server(100, 4, "paged", "chunked")
    calls = []
    plan = server.sched.plan
    server.sched.plan = lambda step: calls.append(step) or plan(step)  # type: ignore[method-assign,func-returns-value]
    server.run([Request(0, 0, 8, 300)], backend=Uneven())
    assert server.journal.iterations == 300
    assert len(calls) < 12


def test_quiet_steps_are_priced_many_at_once() -> None:
    priced = []

    class Noted(Uneven):
        tariff = Uneven.tariff

        def execute(self, step: Step) -> StepResult:
            priced.append(step)
            return super().execute(step)

    server = Server(400, 16, "paged", "chunked")
    server.run([Request(0, 0, 8, 1600)], backend=Noted(), first_bin=10**9)
    assert server.journal.iterations == 1600
    assert len(priced) < 1600 / 16 * 1.2  # one for each block


@pytest.mark.parametrize(
    ("allocator", "path"),
    [
        ("paged", "equal steps skip the queues: blocks counted, many priced at once; "),
        ("max", "equal steps skip the queues: Contiguous asked where a table is full, many priced at once; "),
        ("plug-in", "one by one: Eager does not say `bulk`, so it is asked before every token"),
    ],
)
def test_a_run_says_how_it_takes_its_steps(allocator: str, path: str) -> None:
    server = Server(100, 4, MAKERS[allocator], "chunked", max_model_len=100)
    server.run([Request(0, 0, 8, 30)], backend=Uneven())
    if path.endswith("; "):
        path += "not by numbers: ListSource does not number its requests"
    assert server.engine.path == path
    server.engine.fast_forward = False
    assert server.engine.path == "one by one: fast_forward is off"
    assert server.engine.fastest_path == path


@pytest.mark.parametrize(
    ("allocator", "kept"), [("paged", "blocks counted"), ("max", "Contiguous asked for whole requests")]
)
def test_plain_runs_are_served_by_numbers(allocator: str, kept: str) -> None:
    server = Server(100, 4, MAKERS[allocator], "chunked", max_model_len=100)
    requests = [Request(0, 0, 8, 30), Request(1, 7, 9, 4)]
    server.run(requests, backend=Uneven(), source=Listed(requests))
    assert server.engine.path == f"100.00% of the steps by numbers: {kept}; the others go through the queues"


def test_a_progress_bar_moves_while_a_run_is_served_by_numbers() -> None:
    requests = [Request(number, number * 1000, 8, 30) for number in range(20)]
    server = Server(100, 4, "paged", "chunked")
    seen: list[tuple[int, int]] = []
    server.run(
        requests,
        backend=Uneven(),
        source=Listed(requests),
        first_bin=500,
        watch=lambda ended, now: seen.append((ended, now)),
    )
    assert server.engine.path.startswith("100.00% of the steps by numbers")
    assert seen == sorted(seen)
    assert len(seen) > 20
    assert {ended for ended, _ in seen} >= {1, 10, 19}


class Twice(Uneven):
    """Executes in another way than the tariff that it inherits says."""

    def execute(self, step: Step) -> StepResult:
        """Take twice as long."""
        return StepResult._make(2 * part for part in super().execute(step))


class OneByOne(Chunked):
    """Replaces a part of the scheduler that it inherits."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        admit = self.admission.admit
        self.admission.admit = lambda step, budget: admit(step, min(budget, 1))  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("scheduler", "backend", "why"),
    [(Chunked, Twice(), "Twice does not say `tariff`"), (OneByOne, Uneven(), "OneByOne does not say `walk`")],
)
def test_inv_10_holds_for_subclasses_that_do_something_else(
    scheduler: type[Chunked], backend: Uneven, why: str
) -> None:
    def served(*, fast_forward: bool) -> Record:
        requests = [Request(number, 40 * number, 8, 30) for number in range(12)]
        server = Server(60, 4, "paged", scheduler)
        recorder = server.run(requests, backend=backend, source=Listed(requests), fast_forward=fast_forward)
        assert server.engine.obstacle == why
        return recorder.record(block_bytes=1)

    same(served(fast_forward=True), served(fast_forward=False))


def test_an_object_that_was_given_a_method_is_asked() -> None:
    requests = [Request(0, 0, 8, 30)]
    server = Server(100, 4, "paged", "chunked")
    calls: list[int] = []
    allocate = server.alloc.allocate

    def noted(sequence: Sequence, num_tokens: int) -> BlockOps | None:
        calls.append(num_tokens)
        return allocate(sequence, num_tokens)

    server.alloc.allocate = noted  # type: ignore[method-assign]
    server.sched = Chunked(  # looks at the policy's words when it is made
        server.alloc,
        server.account,
        server.journal,
        server.sched.limits,
        Youngest(),
        twin=server.make_allocator,
    )
    server.run(requests, backend=Uneven(), source=Listed(requests))
    assert calls[0] == 8
    assert len(calls) > 3


def test_a_policy_that_raises_by_numbers_says_where_the_run_was() -> None:
    class Broken(Asked):
        def free(self, sequence: Sequence) -> None:
            raise ZeroDivisionError

    requests = [Request(0, 5, 8, 30)]
    server = Server(100, 4, lambda pool, longest: Broken(pool), "chunked")
    with pytest.raises(ZeroDivisionError):
        server.run(requests, backend=Uneven(), source=Listed(requests))
    assert "served by numbers since tick 0" in server.engine.picture()


def test_a_subclass_does_not_inherit_what_is_said_of_methods_that_it_replaces() -> None:
    class Hoarding(Paged):
        def free(self, sequence: Sequence) -> None:
            super().free(sequence)

    class Lazy(Chunked):
        def commit(self, step: Step, now: int) -> None:
            super().commit(step, now)

    requests = [Request(0, 0, 8, 30)]
    server = Server(100, 4, lambda pool, longest: Hoarding(pool), Lazy)
    server.run(requests, backend=Uneven(), source=Listed(requests))
    assert server.engine.obstacle == "Lazy does not say `walk`"
    server = Server(100, 4, lambda pool, longest: Hoarding(pool), "chunked")
    server.run(requests := [Request(0, 0, 8, 30)], backend=Uneven(), source=Listed(requests))
    assert "Hoarding asked for whole requests" in server.engine.path
