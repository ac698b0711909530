"""The state machine: random programs of verbs on a bench, in any order, over small and odd pools."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pagesim.errors import ConfigError, PluginError
from pagesim.testing.bench import Bench
from pagesim.testing.job import Job, Place
from pagesim.testing.policies import Policy

MAX_JOBS = 6
"""Requests that are there at the same time, at most."""

PICK = st.integers(0, MAX_JOBS - 1)


class ContractMachine(RuleBasedStateMachine):
    """Plays a scheduler that does anything that one may do.

    ``policy`` and ``tally`` are set on a subclass; ``broken`` is the bench on which a rule was broken last.
    """

    policy: Policy
    tally: Counter[str]
    broken: ClassVar[Bench | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.bench: Bench | None = None

    @initialize(
        num_blocks=st.sampled_from([8, 12, 16, 6, 4, 3, 2, 1]),
        block_size=st.sampled_from([1, 2, 3, 4]),
        watermark=st.sampled_from([0, 1]),
        host_blocks=st.sampled_from([12, 12, 4, 1, 0]),
        length=st.integers(2, 24),
        share=st.sampled_from([3, 2, 4, 2, 1, 0]),
        prefix_tokens=st.sampled_from([4, 1, 7]),
        pins=st.booleans(),
    )
    def begin(
        self,
        num_blocks: int,
        block_size: int,
        watermark: int,
        host_blocks: int,
        length: int,
        share: int,
        prefix_tokens: int,
        pins: bool,
    ) -> None:
        """Set the pool up, with what the policy can make use of."""
        capabilities = self.policy.capabilities()
        sizes: dict[str, Any] = {"num_blocks": num_blocks, "block_size": block_size, "watermark": watermark}
        if "Swaps" in capabilities:
            sizes["host_blocks"] = host_blocks
        if self.policy.takes_length:
            # as a rule one to three of the longest requests fit, now and then not even one
            sizes["max_model_len"] = min(length, max(num_blocks * block_size // share, 2)) if share else length
        elif num_blocks * block_size < 2:
            sizes["max_model_len"] = 4
        if "Prefixes" in capabilities:
            sizes["prefix_tokens"] = prefix_tokens
            if pins and self.policy.takes("pin_prefixes"):
                sizes["pin_prefixes"] = True
        try:
            self.bench = Bench(self.policy.factory, **sizes, **self.policy.options)
        except PluginError:
            raise
        except ConfigError:  # a pool that the policy says is too small for it
            self.tally["pools refused"] += 1
            reject()

    def jobs(self, verb: str) -> list[Job]:
        """Return the requests for which a scheduler could call ``verb`` now."""
        return [job for job in self._bench.jobs if self._bench.may(verb, job)] if self.bench is not None else []

    @property
    def _bench(self) -> Bench:
        assert self.bench is not None
        return self.bench

    @precondition(
        lambda self: self.bench is not None and sum(j.place is not Place.GONE for j in self.bench.jobs) < MAX_JOBS
    )
    @rule(
        prompt=st.sampled_from([3, 1, 2, 4, 5, 1, 2, 6, 7, 8, 13, 20]),
        output=st.sampled_from([9, 1, 2, 3, 5, 20]),
        sequences=st.sampled_from([1, 1, 2, 3]),
        estimate=st.sampled_from([None, 1, None, 2, 1, 9]),
        group=st.sampled_from([None, 0, 0, 1]),
    )
    def arrive(self, prompt: int, output: int, sequences: int, estimate: int | None, group: int | None) -> None:
        """A request arrives, and is admitted if there is room."""
        bench = self._bench
        prompt = min(prompt, bench.max_model_len - 1)
        output = min(output, bench.max_model_len - prompt)
        group = group if bench.asked.can_share else None
        job = bench.request(prompt=prompt, output=output, sequences=sequences, estimate=estimate, group=group)
        bench.admit(job)

    @precondition(lambda self: self.jobs("admit"))
    @rule(pick=PICK)
    def admit(self, pick: int) -> None:
        """A waiting request is asked for again."""
        self._bench.admit(_choose(self.jobs("admit"), pick))

    @precondition(lambda self: self.jobs("grow"))
    @rule(pick=PICK)
    def grow(self, pick: int) -> None:
        """Room for the next token of one request."""
        self._bench.grow(_choose(self.jobs("grow"), pick))

    @precondition(lambda self: self.bench is not None and self.bench.has_work)
    @rule(chunk=st.sampled_from([None, None, 1, 2, 5]))
    def step(self, chunk: int | None) -> None:
        """A step, in which prompts may be stored in part."""
        self._bench.step(chunk)

    @precondition(lambda self: self.bench is not None and self.bench.has_work)
    @rule(num_steps=st.integers(1, 9))
    def decode(self, num_steps: int) -> None:
        """Everyone who has room goes on."""
        self._bench.decode(num_steps)

    @precondition(lambda self: self.jobs("fork"))
    @rule(pick=PICK, parent=st.integers(0, 2), replaced=st.integers(0, 2))
    def fork(self, pick: int, parent: int, replaced: int) -> None:
        """A beam goes on from another."""
        job = _choose(self.jobs("fork"), pick)
        width = len(job.request.sequences)
        self._bench.fork(job, parent % width, (parent + 1 + replaced % (width - 1)) % width)

    @precondition(lambda self: self.jobs("swap_in"))
    @rule(pick=PICK)
    def swap_in(self, pick: int) -> None:
        """It comes back."""
        self._bench.swap_in(_choose(self.jobs("swap_in"), pick))

    @precondition(lambda self: self.jobs("preempt"))
    @rule(pick=PICK, goes=st.sampled_from(["swap_out", "swap_out", "preempt"]))
    def leave(self, pick: int, goes: str) -> None:
        """A request has to go: to the host, or to be computed again."""
        job = _choose(self.jobs(goes) or self.jobs("preempt"), pick)
        if self._bench.may(goes, job):
            getattr(self._bench, goes)(job)
        else:
            self._bench.preempt(job)

    @precondition(lambda self: self.jobs("free"))
    @rule(pick=PICK, index=st.sampled_from([None, None, 1, 2]))
    def free(self, pick: int, index: int | None) -> None:
        """A request ends, or one of its samples."""
        job = _choose(self.jobs("free"), pick)
        is_one = index is not None and self._bench.may("free", job, index)
        self._bench.free(job, index if is_one else None)

    def teardown(self) -> None:
        """End everything."""
        if self.bench is not None:
            try:
                if not self.bench.is_broken:
                    self.bench.drain()
                    self.tally["programs"] += 1
            finally:
                self.tally.update(self.bench.tally)
                if self.bench.is_broken:
                    type(self).broken = self.bench


def _choose(jobs: list[Job], pick: int) -> Job:
    return jobs[pick % len(jobs)]
