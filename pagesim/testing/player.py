"""A scheduler's part, played by hand: what each verb does to requests, to the policy and to the step being planned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pagesim.sequence import Sequence
from pagesim.testing import steps
from pagesim.testing.asked import Asked
from pagesim.testing.failure import RuleError
from pagesim.testing.job import Job, Place


class Player:
    """Calls a policy as a scheduler would. Every verb raises RuleError as soon as a rule is broken.

    Verbs that answer False found no room.

    Args:
        asked: the policy.

    Attributes:
        jobs: all requests, in the order in which they came.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.jobs: list[Job] = []
        self._refusals: dict[Job, tuple[int, int, int]] = {}
        self._ways: set[str] = set()  # of the step being planned: no step swaps both out and in

    def may(self, verb: str, job: Job, *indices: int) -> bool:
        """Return whether a scheduler would call ``verb`` for ``job`` now, or for those of its sequences."""
        if indices and not (job.request.forked and max(indices) < len(job.request.sequences)):
            return False
        asked, live, is_running = self.asked, job.live, job.place is Place.RUNNING
        is_whole = len(live) == len(job.request.sequences)  # those that have ended stay where they are
        match verb:
            case "admit":
                return job.place is Place.WAITING
            case "grow":
                return is_running and bool(live) and not job.is_granted and not any(job.granted.values())
            case "preempt" | "free":
                return is_running and not job.is_granted
            case "swap_out":
                may_leave = is_running and not job.is_granted and is_whole and "in" not in self._ways
                return asked.can_swap and may_leave and any(sequence.num_stored for sequence in live)
            case "swap_in":
                return job.place is Place.SWAPPED and "out" not in self._ways
            case "fork":
                return asked.can_fork and self.may("grow", job) and is_whole and len(live) > 1 and job.is_decoding
        raise ValueError(f"there is no verb {verb!r}")

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything: a plan to execute, tokens to store, or a request that may grow."""
        running = [job for job in self.jobs if job.place is Place.RUNNING]
        is_planned = bool(self.asked.plan or self._ways)
        return is_planned or any(any(job.granted.values()) or self.may("grow", job) for job in running)

    def admit(self, job: Job) -> bool:
        """Allocate the prompt of a waiting request, above the watermark."""
        asked, pool = self.asked, self.asked.pool
        sequences = job.prefilled
        matched = [asked.match(sequence) for sequence in sequences]
        with self._above_watermark(job):
            question = (pool.generation, pool.floor, sum(matched))
            is_admitted = self._allocate_all(job)
        if not is_admitted:
            self._refusals[job] = question
            has_room = not pool.num_held and pool.blocks_for(job.need(sequences[0])) <= pool.num_blocks
            asked.tally["refused by an empty pool"] += has_room and len(sequences) == 1
            return False
        if asked.is_stable and self._refusals.pop(job, None) == question:
            raise RuleError("stable_refusal", "no room again: no block has become free since it refused", "room")
        for sequence, num_matched in zip(sequences, matched, strict=True):
            sequence.num_stored = num_matched
        job.place = Place.RUNNING
        job.grant(sequences)
        return True

    def grow(self, job: Job) -> bool:
        """Perform the forks of a running request, then make room for each sequence's next token."""
        due = job.live
        if not job.request.forked:
            if not job.is_prompt_stored:
                due = due[:1]
            elif not self._fork_all(job):
                return False
        if not all(self.asked.allocate_again(sequence, job.need(sequence)) for sequence in due):
            return False
        job.grant(due)
        return True

    def fork(self, job: Job, parent: int, replaced: int) -> bool:
        """Let a sequence go on from another's stored tokens, and free the one in whose place it comes."""
        request, names = job.request, self.asked.names
        survivor, dead = request.sequences[parent], request.sequences[replaced]
        child = Sequence(request, replaced)
        child.num_output, child.estimate = dead.num_output, dead.estimate
        child.num_generated = survivor.num_generated
        names[child] = f"{names[dead]}'"
        request.sequences.append(child)
        is_forked = self.asked.fork(survivor, child)
        request.sequences.pop()
        if not is_forked:
            return False
        self.asked.free(dead)
        job.replace(dead, child, survivor)
        names[child], names[dead] = names[dead], f"{names[dead]} before"
        return True

    def swap_out(self, job: Job) -> bool:
        """Move a running request to the host."""
        job.left = self.asked.swap_out(job.live)
        if job.left is None:
            return False
        self._ways.add("out")
        job.lose(Place.SWAPPED)
        return True

    def swap_in(self, job: Job) -> bool:
        """Bring a request back, above the watermark."""
        if job.left is None:
            raise ValueError(f"{job} was never swapped out")
        with self._above_watermark(job):
            is_back = self.asked.swap_in(job.live, job.left)
        if is_back:
            self._ways.add("in")
            job.place = Place.RUNNING
        return is_back

    def preempt(self, job: Job) -> None:
        """Take all memory of a running request away; it waits again, to be computed anew."""
        self._end(job, Place.WAITING if job.live else Place.GONE)
        for sequence in job.request.sequences:
            sequence.num_stored = 0
        job.request.forked = len(job.request.sequences) == 1 or not self.asked.can_fork

    def free(self, job: Job, index: int | None = None) -> None:
        """End a request, or one of its sequences."""
        if index is None:
            self._end(job, Place.GONE)
            return
        sequence = job.request.sequences[index]
        job.end(sequence)
        if sequence.block_table:
            self.asked.free(sequence)
        if not any(each.block_table for each in job.request.sequences):
            job.place = Place.GONE

    def step(self, chunk: int | None = None) -> None:
        """Execute the plan, store what was granted, of a prompt at most ``chunk`` tokens."""
        self._ways.clear()
        steps.take(self.asked, self.jobs, chunk)

    def decode(self, num_steps: int = 1) -> None:
        """Make room for everyone's next token, as far as there is any, and take a step; ``num_steps`` times."""
        for _ in range(num_steps):
            for job in self.jobs:
                if self.may("grow", job):
                    self.grow(job)
            self.step()

    def drain(self) -> None:
        """End everything, and check that the pool is as good as new."""
        self.step()
        for job in self.jobs:
            if job.place is Place.RUNNING:
                self._end(job, Place.GONE)
        if not self._bring_back_all():
            return
        release_pins = getattr(self.asked.allocator, "release_pins", None)
        if release_pins is not None:
            release_pins()
        self.asked.check_empty()
        for prompt, output in dict.fromkeys((j.request.prompt_tokens, j.request.output_tokens) for j in self.jobs):
            self.asked.check_as_new(prompt, output)

    def _allocate_all(self, job: Job) -> bool:
        """Allocate whole prompts, all or none."""
        granted: list[Sequence] = []
        for sequence in job.prefilled:
            if not self.asked.allocate(sequence, job.need(sequence)):
                for earlier in granted:
                    self.asked.free(earlier)
                return False
            granted.append(sequence)
        return True

    def _fork_all(self, job: Job) -> bool:
        """Perform the forks that the end of a prompt brings."""
        parent, *children = job.request.sequences
        for child in children:
            if not (child.has_ended or child.num_stored or self.asked.fork(parent, child)):
                return False
        job.request.forked = True
        return True

    def _end(self, job: Job, place: Place) -> None:
        for sequence in job.request.sequences:
            if sequence.block_table:
                self.asked.free(sequence)
        job.lose(place)

    def _bring_back_all(self) -> bool:
        """Bring back and end what is swapped out; False if blocks of others that are swapped too are in the way."""
        swapped = [job for job in self.jobs if job.place is Place.SWAPPED]
        while swapped:
            back = next((job for job in swapped if self.swap_in(job)), None)
            if back is None and self.asked.pool.num_held:
                return False
            if back is None:
                raise RuleError("INV-8", f"{swapped[0]} comes back from the host: the pool is empty", "no room")
            self.step()
            self._end(back, Place.GONE)
            swapped.remove(back)
        return True

    @contextlib.contextmanager
    def _above_watermark(self, job: Job) -> Iterator[None]:
        """Keep the watermark free, unless nobody else holds device memory."""
        pool = self.asked.pool
        others = [other for other in self.jobs if other is not job and other.place is Place.RUNNING]
        is_alone = not any(sequence.block_table for other in others for sequence in other.request.sequences)
        pool.floor = 0 if is_alone else pool.watermark
        try:
            yield
        finally:
            pool.floor = 0
