"""One iteration after the other, everything looked up again each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.oracle.memory import Job, Memory, num_held

QUANTITIES = (
    *("live", "useful", "internal", "external", "free", "cached", "blocks_held", "references"),
    *("largest_free_run", "free_blocks", "running", "waiting", "swapped"),
)


@dataclass(frozen=True)
class Rules:
    """What an experiment sets."""

    scheduler: str
    victim: str
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    watermark: int
    num_slots: int
    admission: str = "after_swapped"
    truncate: bool = False


@dataclass(frozen=True)
class Iteration:
    """What one step computes: chunks as (id, tokens, recomputed), ids that decode, and what it moves and reads."""

    chunks: list[tuple[int, int, int]]
    decodes: list[int]
    context: int
    table_entries: int
    copied_blocks: int
    padding: int


@dataclass(frozen=True)
class Segment:
    """A stretch of time in which nothing changes."""

    start: int
    stop: int
    state: dict[str, int]
    reason: str
    is_idle: bool


@dataclass
class Serving:
    """A server; ``run`` serves all jobs (or stops at the horizon)."""

    rules: Rules
    memory: Memory
    duration: Callable[[Iteration], int]
    now: int = 0
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)  # by admission
    retired: list[Job] = field(default_factory=list)
    come_back: set[Job] = field(default_factory=set)
    reason: str = "load"
    is_refused_by_memory: bool = False
    batch_reason: str = "load"
    iterations: list[tuple[int, Iteration]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    gaps: list[int] = field(default_factory=list)

    def run(self, jobs: list[Job], horizon: int | None = None) -> None:
        due = list(jobs)
        end = float("inf") if horizon is None else horizon
        while True:
            while due and due[0].arrival <= self.now:
                self.arrive(due.pop(0))
            chunks, decoders, copies, padding = self.plan()
            until = due[0].arrival if due else end
            is_idle = not chunks and not decoders
            if is_idle:
                assert not self.waiting + self.running, "idle while something waits"
            else:
                until = self.now + self.price(chunks, decoders, copies, padding)
            if until == float("inf"):
                return
            self.pass_time(int(min(until, end)), due, is_idle)
            if self.now == horizon:
                return
            if not is_idle:
                self.commit(chunks, decoders)

    def arrive(self, job: Job) -> None:
        limit = self.rules.max_model_len
        self.counts["arrived"] += 1
        if self.rules.truncate:
            job.prompt = min(job.prompt, limit - 1)
            job.output = min(job.output, limit - job.prompt)
            job.estimate = min(job.estimate, limit - job.prompt)
        if job.prompt + job.output > limit:
            self.refuse(job)
        else:
            self.waiting.append(job)

    # One step

    def plan(self) -> tuple[list[tuple[Job, int]], list[Job], int, int]:
        chunks: list[tuple[Job, int]] = []
        decoders: list[Job] = []
        copied = self.memory.copied_blocks
        budget, padding = self.rules.max_num_batched_tokens, 0
        if self.rules.scheduler in ("mixed", "chunked"):
            is_held = self.grow()
            decoders = self.decoding()
            budget = self.go_on(chunks, budget - len(decoders))
            if is_held and (decoders or chunks):
                self.hold("memory")
            else:
                self.admit(chunks, budget)
        elif self.rules.scheduler == "prefill_first":
            self.admit(chunks, budget)
            if not chunks:
                if self.grow():
                    self.hold("memory")
                decoders = self.decoding()
                if not decoders:
                    self.admit(chunks, budget)
        elif self.rules.scheduler == "static":
            if self.running:
                is_held = self.grow()
                decoders = self.decoding()
                self.hold("load")
                if self.waiting:
                    self.hold(
                        "memory" if is_held else "sequences" if self.batch_reason == "load" else self.batch_reason
                    )
                padding = len(self.retired) if decoders else 0
            if not decoders:
                self.end_batch()
                self.admit(chunks, budget)
                self.batch_reason = self.reason
                padding = sum(max(n for _, n in chunks) - n for _, n in chunks)
        return chunks, decoders, self.memory.copied_blocks - copied, padding

    def decoding(self) -> list[Job]:
        return [job for job in self.running if not job.is_prefilling]

    def grow(self) -> bool:
        """Make room for one more token of each decoding job; return whether one had to go."""
        has_preempted = False
        for job in list(self.running):
            while job in self.running and not job.is_prefilling and not self.memory.reserve(job, 1):
                later = self.running[self.running.index(job) + 1 :]
                if later:
                    self.preempt(self.victim(later))
                    has_preempted = True
                elif len(self.memory.claims) == 1:
                    self.running.remove(job)
                    self.memory.drop(job)
                    self.refuse(job)
                else:
                    self.preempt(job)
                    has_preempted = True
        return has_preempted

    def victim(self, jobs: list[Job]) -> Job:
        """The preferred one; of equals the one that arrived last."""
        keys: dict[str, Callable[[Job], int]] = {
            "youngest": lambda job: 0,
            "least_computed": lambda job: -job.stored,
            "fewest_outputs": lambda job: -job.generated,
            "longest_remaining": lambda job: job.output - job.generated,
        }
        return max(jobs, key=lambda job: (keys[self.rules.victim](job), job.arrival, job.id))

    def preempt(self, job: Job) -> None:
        self.running.remove(job)
        self.memory.drop(job)
        job.stored = 0
        job.is_prefilling = False
        job.preemptions += 1
        self.counts["preemptions_recompute"] += 1
        self.come_back.add(job)
        self.waiting.insert(0, job)

    def go_on(self, chunks: list[tuple[Job, int]], budget: int) -> int:
        for job in self.running:
            if job.is_prefilling and budget > 0:
                chunks.append((job, min(budget, job.known - job.stored)))
                budget -= chunks[-1][1]
        return budget

    def admit(self, chunks: list[tuple[Job, int]], budget: int) -> None:
        self.hold("load")
        while self.waiting:
            job = self.waiting[0]
            need = job.known
            others = self.come_back - {job}
            if self.rules.admission == "after_preempted" and others and job not in self.come_back:
                return self.hold("memory")
            if len(self.running) >= self.rules.max_num_seqs:
                return self.hold("sequences")
            if budget < 1 or (budget < need and self.rules.scheduler != "chunked"):
                return self.hold("tokens")
            floor = self.rules.watermark if self.memory.claims else 0
            if not self.memory.reserve(job, need, floor):
                if self.memory.empty_twin().reserve(job, need):
                    self.hold("memory")
                    self.is_refused_by_memory = True
                    return None
                self.refuse(self.waiting.pop(0))
                continue
            self.running.append(self.waiting.pop(0))
            job.is_prefilling = True
            if job.admitted_at is None:
                job.admitted_at = self.now
            chunks.append((job, min(need, budget)))
            budget -= chunks[-1][1]
        return None

    def hold(self, reason: str) -> None:
        self.reason = reason
        self.is_refused_by_memory = False

    def refuse(self, job: Job) -> None:
        job.bucket = "refused"
        self.come_back.discard(job)
        self.counts["refused"] += 1

    def price(self, chunks: list[tuple[Job, int]], decoders: list[Job], copies: int, padding: int) -> int:
        """Keep what the step does and return how long it takes."""
        claims, size = self.memory.claims, self.memory.block_size
        step = Iteration(
            chunks=[(job.id, n, max(min(job.stored + n, job.ever_stored) - job.stored, 0)) for job, n in chunks],
            decodes=sorted(job.id for job in decoders),
            context=sum(job.stored + 1 for job in decoders),
            table_entries=sum(claims[job].blocks for job in [*decoders, *(job for job, _ in chunks)]),
            copied_blocks=copies,
            padding=padding,
        )
        assert all(claims[job].blocks * size > job.stored for job in decoders), "no room for the next token"
        self.iterations.append((self.now, step))
        return self.duration(step)

    def commit(self, chunks: list[tuple[Job, int]], decoders: list[Job]) -> None:
        self.counts["iterations"] += 1
        for job, tokens in [*chunks, *((job, 1) for job in decoders)]:
            again = max(min(job.stored + tokens, job.ever_stored) - job.stored, 0)
            job.recomputed += again
            self.counts["recomputed_tokens"] += again
            job.stored += tokens
            job.ever_stored = max(job.ever_stored, job.stored)
            if job.stored == job.known:
                self.generate(job)
        if not self.running:
            self.end_batch()

    def generate(self, job: Job) -> None:
        job.is_prefilling = False
        if job.token_times:
            self.gaps.append(self.now - job.token_times[-1])
        else:
            self.counts["prompt_tokens"] += job.prompt
        job.generated += 1
        job.token_times.append(self.now)
        self.counts["output_tokens"] += 1
        if job.generated == job.output:
            job.bucket = "finished"
            self.counts["finished"] += 1
            self.come_back.discard(job)
            self.running.remove(job)
            if self.rules.scheduler == "static":
                job.is_retired = True
                self.retired.append(job)
            else:
                self.memory.drop(job)

    def end_batch(self) -> None:
        for job in self.retired:
            self.memory.drop(job)
        self.retired.clear()

    # Time and the account

    def pass_time(self, until: int, due: list[Job], is_idle: bool) -> None:
        """Let the state last; jobs that arrive meanwhile only lengthen the queue."""
        state = self.account()
        while due and self.now < due[0].arrival < until:
            self.segments.append(Segment(self.now, due[0].arrival, state, self.reason, is_idle))
            self.now = due[0].arrival
            while due and due[0].arrival == self.now:
                self.arrive(due.pop(0))
            state = {**state, "waiting": len(self.waiting)}
        self.segments.append(Segment(self.now, until, state, self.reason, is_idle))
        self.now = until

    def account(self) -> dict[str, int]:
        """Put every slot of the pool into its part."""
        memory, size = self.memory, self.memory.block_size
        parts = dict.fromkeys(QUANTITIES, 0)
        for job, claim in memory.claims.items():
            slots = claim.blocks * size
            parts["external"] += slots - claim.asked
            if job.is_retired:
                parts["internal"] += claim.asked
                continue
            parts["live"] += job.stored
            parts["useful"] += min(claim.asked, job.final)
            parts["internal"] += max(claim.asked - job.final, 0)
        parts["blocks_held"] = parts["references"] = num_held(memory)
        free = (memory.num_blocks - num_held(memory)) * size
        parts["external" if self.is_refused_by_memory else "free"] += free
        parts["external"] += self.rules.num_slots - memory.num_blocks * size
        assert sum(parts[p] for p in ("useful", "internal", "external", "free")) == self.rules.num_slots
        largest = memory.largest_run()
        if largest is not None:
            parts["largest_free_run"] = largest
            parts["free_blocks"] = memory.num_blocks - num_held(memory)
        parts["running"], parts["waiting"] = len(self.running), len(self.waiting)
        return parts

    def integrals(self, start: int, stop: int) -> dict[str, int]:
        """Return each quantity times ticks between two instants."""
        totals = dict.fromkeys(QUANTITIES, 0)
        for segment in self.segments:
            span = max(min(stop, segment.stop) - max(start, segment.start), 0)
            for name, value in segment.state.items():
                totals[name] += value * span
        return totals

    def reasons(self) -> dict[str, int]:
        totals = dict.fromkeys(("load", "memory", "sequences", "tokens"), 0)
        for segment in self.segments:
            totals[segment.reason] += segment.stop - segment.start
        return totals
