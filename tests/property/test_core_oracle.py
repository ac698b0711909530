"""The engine against a naive one, written from the rules alone: equal integer for integer."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.backend import Step, StepResult
from pagesim.blocks import Copy
from pagesim.journal import GapHistogram
from pagesim.record import INTEGRALS, STATUSES, Record
from pagesim.sequence import Request
from pagesim.testing.listed import Listed, Uneven
from tests.oracle.memory import CountedBlocks, Job, Memory, Runs
from tests.oracle.serving import Iteration, Rules, Serving
from tests.support.runs import ALLOCATORS, SCHEDULERS, VICTIMS, Server


def duration(step: Iteration) -> int:
    """Depends on everything that a cost model may look at, and collides with arrivals now and then."""
    prefilled = sum(tokens for _, tokens, _ in step.chunks)
    again = sum(recomputed for _, _, recomputed in step.chunks)
    return (
        1
        + prefilled
        + len(step.decodes)
        + step.context % 3
        + step.table_entries % 4
        + step.padding % 2
        + again % 3
        + step.copied_blocks % 5
    )


class PricedBackend:
    """Prices a step like the naive engine does, and keeps what the step was."""

    def __init__(self) -> None:
        self.steps: list[Iteration] = []

    def execute(self, step: Step) -> StepResult:
        """Write the step down."""
        entries = sum(len(sequence.block_table) for sequence in step.decodes)
        assert step.num_decodes == len(step.decodes)
        assert step.context_tokens == sum(sequence.num_stored + 1 for sequence in step.decodes)
        assert step.table_entries == entries + sum(len(chunk.sequence.block_table) for chunk in step.prefills)
        self.steps.append(
            Iteration(
                chunks=[(chunk.sequence.request.id, chunk.num_tokens, chunk.num_recomputed) for chunk in step.prefills],
                decodes=sorted(sequence.request.id for sequence in step.decodes),
                context=step.context_tokens,
                table_entries=step.table_entries,
                copied_blocks=sum(op.num_blocks for op in step.ops if isinstance(op, Copy)),
                padding=step.padding_tokens,
            )
        )
        ticks = duration(self.steps[-1])
        return StepResult(ticks, overhead=ticks)


def linear_duration(step: Iteration) -> int:
    """The same in the form of a tariff."""
    again = sum(recomputed for _, _, recomputed in step.chunks)
    prefilled = sum(tokens for _, tokens, _ in step.chunks)
    counted = 2 * len(step.decodes) + step.context + 3 * step.table_entries + 5 * step.copied_blocks
    return 1 + counted + 4 * prefilled + again + step.padding


class Linear(Uneven):
    """Prices a step like ``linear_duration``, and says so."""

    def prompts(self, chunks: Listing[tuple[int, int, int]], num_decodes: int) -> tuple[int, int, int]:
        """Return what chunks add, wherever they stand in their prompts."""
        return 4 * sum(size for _, size, _ in chunks), sum(again for *_, again in chunks), 0


@dataclass(frozen=True)
class Case:
    """A small experiment."""

    jobs: tuple[tuple[int, int, int, int], ...]  # arrival, prompt, output, estimate
    num_blocks: int
    block_size: int
    tail: int
    watermark: int
    allocator: str
    scheduler: str
    victim: str
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    admission: str
    truncate: bool
    horizon: int | None

    @property
    def rules(self) -> Rules:
        """The same for the naive engine."""
        return Rules(
            scheduler=self.scheduler,
            victim=self.victim,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            watermark=self.watermark,
            num_slots=self.num_blocks * self.block_size + self.tail,
            admission=self.admission,
            truncate=self.truncate,
        )

    @property
    def memory(self) -> Memory:
        """The counting model of the allocator."""
        reserve, _, placement = self.allocator.partition("-")
        if placement:
            return Runs(self.num_blocks, self.block_size, reserve, placement, self.max_model_len)
        return CountedBlocks(self.num_blocks, self.block_size)


def draw_case(rng: Random, allocator: str | None = None, scheduler: str | None = None) -> Case:
    """Draw an experiment. Memory is short as a rule: it holds the longest job, and some of the others."""
    scheduler = scheduler or rng.choice(sorted(SCHEDULERS))
    allocator = allocator or rng.choice(sorted(ALLOCATORS))
    block_size = 1 if allocator == "ideal" else rng.randint(1, 8)
    jobs = []
    arrival = 0
    for _ in range(rng.randint(2, 9)):
        arrival += rng.choice([0, 0, 0, 1, 2, 3, 5, 8, 13, 40])
        prompt = rng.randint(1, rng.choice([8, 30]))
        output = rng.choice([1, 2, 3, *[rng.randint(4, 24)] * 9])
        jobs.append((arrival, prompt, output, rng.choice([output, 1, 2, 3, 9, 30])))
    longest = max(prompt + output for _, prompt, output, _ in jobs)
    max_model_len = max(rng.choice([*[longest] * 6, longest + 7, longest - 1, longest // 2]), 2)
    together = sum(max_model_len if allocator.startswith("max") else job[1] + job[2] for job in jobs)
    short = rng.randint(longest, max(longest, (longest + together) // 3))
    slots = rng.choice([*[short] * 6, together, rng.randint(1, longest)])
    budget = rng.randint(1, 48)
    return Case(
        jobs=tuple(jobs),
        num_blocks=max(slots // block_size, 1),
        block_size=block_size,
        tail=rng.randrange(block_size),
        watermark=0 if allocator == "ideal" else rng.choice([0, 0, 1, 2]),
        allocator=allocator,
        scheduler=scheduler,
        victim=rng.choice(sorted(VICTIMS)),
        max_num_seqs=rng.choice([10, 10, 10, 1, 2, 3]),
        max_num_batched_tokens=budget if scheduler == "chunked" else max(budget, max_model_len),
        max_model_len=max_model_len,
        admission=rng.choice(["after_swapped", "after_swapped", "after_preempted"]),
        truncate=rng.random() < 0.5,
        horizon=rng.randint(1, 300) if rng.random() < 0.25 else None,
    )


def check(case: Case, *, fast_forward: bool = True, by_numbers: bool = False) -> Serving:
    """Run both engines and compare everything that they leave behind; return the naive one.

    With ``by_numbers`` the engine may serve without steps, so those are not compared.
    """
    naive = Serving(case.rules, case.memory, linear_duration if by_numbers else duration)
    jobs = [Job(number, *job) for number, job in enumerate(case.jobs)]
    naive.run([*jobs], case.horizon)

    server = Server(
        num_blocks=case.num_blocks,
        block_size=case.block_size,
        allocator=case.allocator,
        scheduler=case.scheduler,
        victim=case.victim,
        max_num_seqs=case.max_num_seqs,
        max_num_batched_tokens=case.max_num_batched_tokens,
        max_model_len=case.max_model_len,
        watermark=case.watermark,
        num_slots=case.rules.num_slots,
        options={"admission": case.admission},
    )
    requests = [
        Request(number, arrival, prompt, output, estimate=estimate)
        for number, (arrival, prompt, output, estimate) in enumerate(case.jobs)
    ]
    backend = Linear() if by_numbers else PricedBackend()
    first, last = case.jobs[0][0], case.jobs[-1][0]
    window = (first, last) if last > first else None
    recorder = server.run(
        requests,
        backend=backend,
        horizon=case.horizon,
        truncate=case.truncate,
        window=window,
        num_bins=8,
        first_bin=3,
        fast_forward=fast_forward,
        source=Listed(requests) if by_numbers else None,
    )
    record = recorder.record(block_bytes=1)

    if isinstance(backend, PricedBackend):
        assert backend.steps == [step for _, step in naive.iterations]
    assert record.end.time == naive.now
    rows = {
        name: record.column(name).tolist()
        for name in (
            *("admitted_at", "first_token_at", "last_token_at", "prompt_tokens", "output_tokens"),
            *("preemptions_recompute", "recomputed_tokens"),
        )
    }
    assert rows == {
        "admitted_at": [-1 if job.admitted_at is None else job.admitted_at for job in jobs],
        "first_token_at": [job.token_times[0] if job.token_times else -1 for job in jobs],
        "last_token_at": [job.token_times[-1] if job.generated == job.output else -1 for job in jobs],
        "prompt_tokens": [job.prompt for job in jobs],
        "output_tokens": [job.output for job in jobs],
        "preemptions_recompute": [job.preemptions for job in jobs],
        "recomputed_tokens": [job.recomputed for job in jobs],
    }
    assert [STATUSES[status] for status in record.column("status")] == [job.bucket for job in jobs]
    assert record.end.integrals == naive.integrals(0, naive.now)
    assert record.end.reasons == naive.reasons()
    assert record.end.idle == sum(s.stop - s.start for s in naive.segments if s.is_idle)
    expected = dict.fromkeys(record.end.counters, 0) | naive.counts | {"copied_blocks": naive.memory.copied_blocks}
    ignored = {"lookups_first", "lookups_retry", "lookups_preempted"}
    assert {name: n for name, n in record.end.counters.items() if name not in ignored} == {
        name: n for name, n in expected.items() if name not in ignored
    }
    gaps = GapHistogram()
    for gap in naive.gaps:
        gaps.add(gap)
    assert (record.gaps.counts, record.gaps.maximum) == (gaps.counts, gaps.maximum)
    check_window(case, record, naive)
    check_bins(case, record, naive)
    return naive


def check_window(case: Case, record: Record, naive: Serving) -> None:
    """Compare the integrals between the first and the last arrival."""
    first, last = case.jobs[0][0], case.jobs[-1][0]
    if last <= first or naive.now < last:
        return
    assert record.opened is not None
    assert record.closed is not None
    areas = {name: record.closed.integrals[name] - record.opened.integrals[name] for name in record.closed.integrals}
    assert (record.opened.time, record.closed.time) == (first, last)
    assert areas == naive.integrals(first, last)


def check_bins(case: Case, record: Record, naive: Serving) -> None:
    """Compare the timeline: bins of 3 ticks that have doubled until at most 8 hold the whole run."""
    width, edges = record.bin_width, record.edges
    whole, rest = divmod(naive.now, width)
    assert len(edges) == 1 + whole + (rest > 0)
    assert whole <= 8
    assert width == 3 or whole >= 4
    assert width % 3 == 0
    assert (width // 3) & (width // 3 - 1) == 0
    for number, edge in enumerate(edges[: whole + 1]):
        assert dict(zip(INTEGRALS, edge, strict=False)) == naive.integrals(0, number * width)
    if rest:  # the last state, which is an empty server unless the run was cut off, lasts to the end of the bin
        state = naive.account() if case.horizon is None else naive.segments[-1].state
        assert dict(zip(INTEGRALS, edges[-1], strict=False)) == {
            name: total + (width - rest) * state[name] for name, total in naive.integrals(0, naive.now).items()
        }


@settings(max_examples=500)
@given(st.randoms(use_true_random=False))
def test_engine_equals_the_naive_engine(rng: Random) -> None:
    check(draw_case(rng))


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_inv_10_one_step_at_a_time_equals_the_naive_engine_too(rng: Random) -> None:
    check(draw_case(rng), fast_forward=False)


@settings(max_examples=500)
@given(st.randoms(use_true_random=False))
def test_inv_10_serving_by_numbers_equals_the_naive_engine_too(rng: Random) -> None:
    check(draw_case(rng), by_numbers=True)


@pytest.mark.parametrize("allocator", sorted(ALLOCATORS))
@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_engine_equals_the_naive_engine_for_each_pair(scheduler: str, allocator: str, seed: int) -> None:
    check(draw_case(Random(seed), allocator, scheduler))
