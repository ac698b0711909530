"""A bench for one policy: every verb is called as a scheduler would, and every rule is looked up after it.

    bench = Bench(Doubling, num_blocks=4, block_size=2)
    a = bench.request(prompt=3, output=5)
    bench.admit(a)          # False if there is no room
    bench.step()            # block moves in their order, then the new tokens; then every sequence is read back
    bench.decode(4)         # room for one more token and a step, four times
    bench.drain()           # everything ends: the pool must be as good as new

Calls between two steps are one plan. Raises ContractError, with a picture of the pool and with this program,
as soon as a rule is broken.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Listing
from functools import partial
from typing import Any

from pagesim.allocators.base import Bulk, Forks, Prefixes, Swaps
from pagesim.blocks import BlockOps, BlockPool, SwapIn, SwapOut
from pagesim.errors import InvariantError, PluginError
from pagesim.sequence import Request, Sequence
from pagesim.testing import checks
from pagesim.testing.contents import Contents
from pagesim.testing.failure import ContractError, RuleError, raised
from pagesim.testing.job import Job, Place
from pagesim.testing.picture import draw
from pagesim.testing.policies import Factory, Policy
from pagesim.testing.program import as_test, call, given

_DEFAULTS: dict[str, Any] = {"block_size": 1, "watermark": 0, "host_blocks": 0, "prefix_tokens": 0}
_DECODE = re.compile(r"bench\.decode\((\d*)\)(.*)")


class Bench:
    """A policy over a small pool, a naive model of the pool's contents, and the requests that hold blocks.

    Args:
        policy: a class, or what makes an allocator from a pool.
        num_blocks, block_size, watermark: of the pool.
        host_blocks: of the host's pool; 0: there is none.
        max_model_len: the longest that a sequence may become; by default all slots of the pool.
        prefix_tokens: length of the prefix that requests of a group begin with.
        options: keyword arguments of the policy.

    Attributes:
        tally: how often each verb was called and refused.
        jobs: all requests, in the order in which they came.
    """

    def __init__(
        self,
        policy: Factory,
        *,
        num_blocks: int,
        block_size: int = 1,
        watermark: int = 0,
        host_blocks: int = 0,
        max_model_len: int | None = None,
        prefix_tokens: int = 0,
        **options: Any,
    ) -> None:
        self.policy = Policy(policy, options)
        self.max_model_len = max_model_len or max(num_blocks * block_size, 2)
        self.prefix_tokens = prefix_tokens
        self._sizes = (num_blocks, block_size, watermark, host_blocks)
        written = {
            "num_blocks": num_blocks,
            "block_size": block_size,
            "watermark": watermark,
            "host_blocks": host_blocks,
            **({} if max_model_len is None else {"max_model_len": max_model_len}),
            "prefix_tokens": prefix_tokens,
            **options,
        }
        self._written = given(written, _DEFAULTS)
        self._lines: list[str] = []
        try:
            self.allocator = self._make()
        except PluginError as error:
            raise PluginError(f"{error} (a pool of {num_blocks} blocks of {block_size} slots)") from error
        self.pool = self.allocator.pool
        self.contents = Contents(self.pool)
        self.jobs: list[Job] = []
        self.tally: Counter[str] = Counter()
        self.is_broken = False
        self._plan = BlockOps()
        self._names: dict[Sequence, str] = {}
        self._refusals: dict[Job, tuple[int, int, int]] = {}
        self._moved: set[str] = set()  # which ways the step being planned swaps: it must not swap both ways
        self._shared: dict[Job, tuple[dict[Sequence, int], list[list[int]]]] = {}
        self.is_bulk = bool(getattr(self.allocator, "bulk", False))
        self.is_stable = bool(getattr(self.allocator, "stable_refusal", False))
        self.can_fork = isinstance(self.allocator, Forks)
        self.can_swap = isinstance(self.allocator, Swaps) and self.pool.host is not None
        self.can_share = isinstance(self.allocator, Prefixes)
        self.can_extend = isinstance(self.allocator, Bulk) and self.is_bulk

    # Requests

    def request(
        self,
        *,
        prompt: int,
        output: int = 8,
        sequences: int = 1,
        estimate: int | None = None,
        group: int | None = None,
    ) -> Job:
        """Return a new request that waits.

        Args:
            prompt, output: tokens.
            sequences: parallel samples.
            estimate: output tokens that the policy may expect; the truth by default.
            group: which prefix its prompt begins with.
        """
        if prompt < 1 or output < 1 or prompt + output > self.max_model_len:
            raise ValueError(f"a request of {prompt} + {output} tokens, where at most {self.max_model_len} are allowed")
        name = _letters(len(self.jobs))
        request = Request(len(self.jobs), 0, prompt, output, sequences, estimate)
        request.oracle = bool(getattr(self.allocator, "oracle", False))
        request.forked = request.forked or not self.can_fork
        if group is not None:
            request.prefix_group, request.prefix_tokens = group, self.prefix_tokens
        job = Job(name, request)
        self.jobs.append(job)
        self._names.update((sequence, job.name_of(sequence)) for sequence in request.sequences)
        written = {"prompt": prompt, "output": output, "sequences": sequences, "estimate": estimate, "group": group}
        self._lines.append(
            call(f"{name} = bench.request", **given(written, {"sequences": 1, "estimate": None, "group": None}))
        )
        return job

    def may(self, verb: str, job: Job) -> bool:
        """Return whether a scheduler would call ``verb`` for ``job`` now."""
        place, live = job.place, job.live
        match verb:
            case "admit":
                return place is Place.WAITING
            case "grow":
                return place is Place.RUNNING and not job.is_granted and bool(live) and not any(job.granted.values())
            case "preempt" | "free":
                return place is Place.RUNNING and not job.is_granted
            case "swap_out":
                is_whole = len(live) == len(job.request.sequences)  # those that have ended stay where they are
                is_free_to_go = place is Place.RUNNING and not job.is_granted and is_whole and "in" not in self._moved
                return self.can_swap and is_free_to_go and any(sequence.num_stored for sequence in live)
            case "swap_in":
                return place is Place.SWAPPED and "out" not in self._moved
            case "fork":
                is_group = len(live) > 1 and len(live) == len(job.request.sequences)
                return self.can_fork and self.may("grow", job) and is_group and self._is_in_step(job)
            case "extend":
                return self.can_extend and self.may("grow", job) and self._is_in_step(job) and not self._copies(job)
        raise ValueError(f"there is no verb {verb!r}")

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything: a plan to execute, tokens to store, or a request that may grow."""
        return bool(self._plan) or any(
            any(job.granted.values()) or self.may("grow", job) for job in self.jobs if job.place is Place.RUNNING
        )

    # Verbs

    def admit(self, job: Job) -> bool:
        """Allocate the prompt of a waiting request, above the watermark; False: no room now."""
        with self._line(f"bench.admit({job})", "admit", job) as answer:
            job.forget_grants()
            sequences = job.prefilled
            matched = [self._match(sequence) for sequence in sequences]
            self.pool.floor = self.pool.watermark if self._others_hold(job) else 0
            question = (self.pool.generation, self.pool.floor, sum(matched))
            try:
                is_admitted = self._allocate_all(job, sequences)
            finally:
                self.pool.floor = 0
            if not is_admitted:
                self._refusals[job] = question
                is_empty = (
                    not self.pool.num_held and self.pool.blocks_for(job.request.prompt_tokens) <= self.pool.num_blocks
                )
                self.tally["refused by an empty pool"] += is_empty and len(sequences) == 1
                return answer(False)
            if self.is_stable and self._refusals.pop(job, None) == question:
                raise RuleError("stable_refusal", "no room again: no block has become free since it refused", "room")
            for sequence, num_matched in zip(sequences, matched, strict=True):
                sequence.num_stored = num_matched
                job.granted[sequence] = self._need(job, sequence)
            job.place, job.is_granted = Place.RUNNING, True
            return answer(True)

    def grow(self, job: Job) -> bool:
        """Perform the forks of a running request, then make room for each sequence's next token."""
        with self._line(f"bench.grow({job})", "grow", job) as answer:
            return answer(self._grow(job))

    def extend(self, *jobs: Job) -> bool:
        """Make room for the next token of running requests in one call, as the engine does for a bulk policy."""
        with self._line(f"bench.extend({', '.join(map(str, jobs))})", "extend", *jobs) as answer:
            sequences = [sequence for job in jobs for sequence in job.live]
            due = [s for s in sequences if checks.capacity(s, self.pool.block_size) <= s.num_stored]
            lengths = [len(sequence.block_table) for sequence in due]
            if due and not self._ask("extend", due, lambda: self.allocator.extend(due)):
                return answer(False)
            for sequence, length in zip(due, lengths, strict=True):
                if len(sequence.block_table) != length + 1:
                    found = f"{len(sequence.block_table) - length}"
                    raise RuleError("bulk", f"extend gives one more block to {self._names[sequence]}", found)
                self._check_room(sequence, sequence.num_stored + 1)
            for job in jobs:
                job.granted = dict.fromkeys(job.granted, 0) | dict.fromkeys(job.live, 1)
                job.is_granted = True
            return answer(True)

    def fork(self, job: Job, parent: int, replaced: int) -> bool:
        """Let a sequence go on from another's stored tokens, and free the one in whose place it comes: a beam."""
        with self._line(f"bench.fork({job}, {parent}, {replaced})", "fork", job) as answer:
            request = job.request
            survivor, dead = request.sequences[parent], request.sequences[replaced]
            child = Sequence(request, replaced)
            child.num_output, child.estimate = dead.num_output, dead.estimate
            child.num_generated = survivor.num_generated
            self._names[child] = f"{job.name_of(dead)}'"
            request.sequences.append(child)
            is_forked = self._fork(survivor, child)
            request.sequences.pop()
            if not is_forked:
                return answer(False)
            job.fork_names(survivor, child)
            self._free(dead)
            request.sequences[replaced] = child
            self._names[child], self._names[dead] = self._names[dead], f"{self._names[dead]} before"
            del job.tokens[dead], job.granted[dead]
            return answer(True)

    def swap_out(self, job: Job) -> bool:
        """Move a running request to the host; False: no room there."""
        with self._line(f"bench.swap_out({job})", "swap_out", job) as answer:
            return answer(self._swap_out(job))

    def swap_in(self, job: Job) -> bool:
        """Bring a request back, above the watermark; False: no room now."""
        with self._line(f"bench.swap_in({job})", "swap_in", job) as answer:
            return answer(self._swap_in(job))

    def preempt(self, job: Job) -> None:
        """Take all memory of a running request away; it waits again, to be computed anew."""
        with self._line(f"bench.preempt({job})", "preempt", job):
            self._free_all(job)
            for sequence in job.request.sequences:
                sequence.num_stored = 0
            job.request.forked = len(job.request.sequences) == 1 or not self.can_fork
            job.place = Place.WAITING if job.live else Place.GONE

    def free(self, job: Job, index: int | None = None) -> None:
        """End a request, or one of its sequences: its memory is given back."""
        with self._line(f"bench.free({job}{'' if index is None else f', {index}'})", "free", job):
            if index is None:
                self._free_all(job)
                job.place = Place.GONE
                return
            sequence = job.request.sequences[index]
            sequence.num_output = sequence.num_generated
            if sequence.block_table:
                self._free(sequence)
            job.granted[sequence] = 0
            if not any(each.block_table for each in job.request.sequences):
                job.place = Place.GONE

    def step(self, chunk: int | None = None) -> None:
        """Execute the plan, store what was granted (of a prompt at most ``chunk`` tokens), and read all back."""
        with self._line(f"bench.step({'' if chunk is None else chunk})"):
            self._step(chunk)

    def decode(self, num_steps: int = 1) -> None:
        """Make room for everyone's next token, as far as there is any, and take a step; ``num_steps`` times."""
        with self._line(f"bench.decode({'' if num_steps == 1 else num_steps})"):
            for _ in range(num_steps):
                for job in self.jobs:
                    if self.may("grow", job):
                        self._grow(job)
                self._step(None)

    def drain(self) -> None:
        """End everything, and check that the pool is as good as new: what a new one admits, it admits again."""
        with self._line("bench.drain()"):
            self._step(None)
            for job in self.jobs:
                if job.place is Place.RUNNING:
                    self._free_all(job)
                    job.place = Place.GONE
            if not self._bring_back_all():
                return
            release_pins = getattr(self.allocator, "release_pins", None)
            if release_pins is not None:
                release_pins()
            self._check_empty()
            for prompt, output in dict.fromkeys((j.request.prompt_tokens, j.request.output_tokens) for j in self.jobs):
                self._check_as_new(prompt, output)

    # What verbs are made of

    def _match(self, sequence: Sequence) -> int:
        if not self.can_share or sequence.request.prefix_group is None:
            return 0
        before = self._state()
        matched: int = self.allocator.match(sequence)
        self._unchanged(before, "answer", "match changes nothing")
        prompt = sequence.request.prompt_tokens
        if not 0 <= matched < prompt:
            raise RuleError(
                "answer", f"match from 0 to {prompt - 1}: the last token of a prompt is computed", f"{matched}"
            )
        return matched

    def _allocate_all(self, job: Job, sequences: Listing[Sequence]) -> bool:
        for number, sequence in enumerate(sequences):
            num_tokens = self._need(job, sequence)
            if not self._ask("allocate", [sequence], partial(self.allocator.allocate, sequence, num_tokens)):
                for earlier in sequences[:number]:
                    self._free(earlier)
                return False
            self._check_room(sequence, num_tokens)
        return True

    def _need(self, job: Job, sequence: Sequence) -> int:
        """Return how many tokens a sequence has to store before it generates the next."""
        known = len(job.tokens[sequence]) if job.request.forked else job.request.prompt_tokens
        return known - sequence.num_stored

    def _grow(self, job: Job) -> bool:
        request = job.request
        due = job.live
        if not request.forked:
            if not job.is_prompt_stored:
                due = due[:1]
            elif not self._fork_all(job):
                return False
        for sequence in due:
            if not self._make_room(sequence, self._need(job, sequence)):
                return False
        for sequence in due:
            job.granted[sequence] = self._need(job, sequence)
        job.is_granted = True
        return True

    def _fork_all(self, job: Job) -> bool:
        request = job.request
        parent = request.sequences[0]
        for child in request.sequences[1:]:
            if not (child.has_ended or child.num_stored) and not self._fork(parent, child):
                return False
        request.forked = True
        return True

    def _fork(self, parent: Sequence, child: Sequence) -> bool:
        ops = self._ask("fork", [child], lambda: self.allocator.fork(parent, child))
        if ops:
            child.num_stored = parent.num_stored
            self._check_room(child, child.num_stored)
        return bool(ops)

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        pool, before = self.pool, self._state()
        stored, length = sequence.num_stored, len(sequence.block_table)
        room = checks.capacity(sequence, pool.block_size) - stored
        is_shared = any(pool.ref_counts[block] > 1 for block in sequence.block_table[stored // pool.block_size :])
        answer = self._ask("allocate", [sequence], lambda: self.allocator.allocate(sequence, num_tokens))
        if self.is_bulk and room >= num_tokens and not is_shared:
            if not answer:
                raise RuleError("bulk", f"room for {num_tokens}: {self._names[sequence]} has room for {room}", "None")
            self._unchanged(before, "bulk", f"nothing changes: {self._names[sequence]} has room for {room} tokens")
        if answer:
            self._check_room(sequence, stored + num_tokens)
            grown = len(sequence.block_table) - length
            if self.can_extend and room == 0 and num_tokens == 1 and length and not is_shared and grown != 1:
                raise RuleError("bulk", "allocate does what extend does: one more block for a full table", f"{grown}")
        return answer

    def _swap_out(self, job: Job) -> bool:
        sequences = job.live
        stored = {sequence: self.pool.blocks_for(sequence.num_stored) for sequence in sequences}
        had = [sequence for sequence in sequences if sequence.block_table]
        shared = checks.sharing(sequences, stored)
        held = 0 if self.pool.host is None else self.pool.host.num_held
        planned = len(self._plan)
        if not self._ask("swap_out", sequences, lambda: self.allocator.swap_out(sequences)):
            return False
        for sequence in had:
            name = self._names[sequence]
            if sequence.block_table:
                raise RuleError(
                    "answer", f"an empty block table of {name} after swap_out", f"{list(sequence.block_table)}"
                )
            kept = len(sequence.resident_table) + len(sequence.host_table)
            if kept < stored[sequence]:
                raise RuleError(
                    "INV-12", f"{stored[sequence]} blocks of {name} kept, resident or on the host", f"{kept}"
                )
        self._check_sharing(job, stored, shared, "after swap_out")
        moved = sum(op.num_blocks for op in self._plan[planned:] if isinstance(op, SwapOut))
        more = 0 if self.pool.host is None else self.pool.host.num_held - held
        if moved != more:
            raise RuleError(
                "INV-12", f"one transfer for each of {more} host blocks taken", f"{moved} blocks transferred"
            )
        self._shared[job] = (stored, shared)
        self._moved.add("out")
        job.forget_grants()
        job.place = Place.SWAPPED
        return True

    def _swap_in(self, job: Job) -> bool:
        sequences = job.live
        self.pool.floor = self.pool.watermark if self._others_hold(job) else 0
        planned = len(self._plan)
        homes = {home for sequence in sequences for home in sequence.host_table}
        try:
            answer = self._ask("swap_in", sequences, lambda: self.allocator.swap_in(sequences))
        finally:
            self.pool.floor = 0
        if not answer:
            return False
        for sequence in sequences:
            for what, table in (("host", sequence.host_table), ("resident", sequence.resident_table)):
                if table:
                    raise RuleError("answer", f"an empty {what} table of {self._names[sequence]}", f"{list(table)}")
            if sequence.num_stored:
                self._check_room(sequence, sequence.num_stored)
        stored, shared = self._shared.pop(job)
        self._check_sharing(job, stored, shared, "after swap_out and swap_in")
        moved = sum(op.num_blocks for op in self._plan[planned:] if isinstance(op, SwapIn))
        if moved != len(homes):
            raise RuleError(
                "INV-12", f"one transfer for each of {len(homes)} host blocks", f"{moved} blocks transferred"
            )
        self._moved.add("in")
        job.place = Place.RUNNING
        return True

    def _free(self, sequence: Sequence) -> None:
        self._ask("free", [sequence], lambda: self.allocator.free(sequence))
        if sequence.block_table:
            found = f"{list(sequence.block_table)}"
            raise RuleError("answer", f"an empty block table of {self._names[sequence]} after free", found)

    def _free_all(self, job: Job) -> None:
        for sequence in job.request.sequences:
            if sequence.block_table:
                self._free(sequence)
        job.forget_grants()

    def _step(self, chunk: int | None) -> None:
        contents, size = self.contents, self.pool.block_size
        contents.perform(self._plan)
        self._plan.clear()
        self._moved.clear()
        for job in self.jobs:
            self._read(job)
        held = checks.owners(self._names, self._names, self.allocator)
        written: list[tuple[Job, Sequence, int]] = []
        for job in self.jobs:
            for sequence, granted in job.granted.items():
                num_tokens = min(granted, chunk or granted)
                if num_tokens:
                    checks.coverage(sequence, sequence.num_stored + num_tokens, size, self._names)
                    checks.exclusive(sequence, sequence.num_stored, num_tokens, size, held)
                    written.append((job, sequence, num_tokens))
        for job, sequence, num_tokens in written:
            for position in range(sequence.num_stored, sequence.num_stored + num_tokens):
                contents.device[contents.slot(sequence.block_table, position)] = job.tokens[sequence][position]
        for job, sequence, num_tokens in written:
            self._store(job, sequence, num_tokens)
        for job in self.jobs:
            job.is_granted = False
            self._read(job)
        contents.poison()
        self.tally["steps"] += 1

    def _store(self, job: Job, sequence: Sequence, num_tokens: int) -> None:
        """Count the tokens of a step; a stored prompt gives every sequence its first token."""
        sequence.num_stored += num_tokens
        job.granted[sequence] -= num_tokens
        if self._need(job, sequence):
            return
        if job.request.forked:
            job.generate(sequence)
            return
        for each in job.request.sequences:
            if not each.num_generated:
                job.generate(each)

    def _read(self, job: Job) -> None:
        """INV-9: read every stored token of a request through its tables."""
        if job.place is Place.GONE:
            return
        contents, size = self.contents, self.pool.block_size
        for sequence in job.request.sequences:
            resident = len(sequence.resident_table) * size
            for position, wanted in enumerate(job.tokens[sequence][: sequence.num_stored]):
                if sequence.block_table:
                    where, memory, slot = "", contents.device, contents.slot(sequence.block_table, position)
                elif job.place is not Place.SWAPPED:
                    break  # one that has ended, and was freed before the others
                elif position < resident:
                    where, memory, slot = (
                        " while swapped",
                        contents.device,
                        contents.slot(sequence.resident_table, position),
                    )
                else:
                    where, memory = " on the host", contents.host
                    slot = contents.slot(sequence.host_table, position - resident)
                found = memory.get(slot)
                if found != wanted:
                    name, read = self._names[sequence], "nothing" if found is None else found
                    rule = "INV-12" if where else "INV-9"
                    raise RuleError(
                        rule, f"{name} reads {wanted} as its token {position}{where}", f"{read} in slot {slot}"
                    )

    def _bring_back_all(self) -> bool:
        """Bring back and end what is swapped out; False if blocks of others that are swapped too are in the way."""
        swapped = [job for job in self.jobs if job.place is Place.SWAPPED]
        while swapped:
            for job in swapped:
                if self._swap_in(job):
                    self._step(None)
                    self._free_all(job)
                    job.place = Place.GONE
                    break
            else:
                if self.pool.num_held:
                    return False
                raise RuleError("INV-8", f"{swapped[0]} comes back from the host: the pool is empty", "no room")
            swapped.remove(job)
        return True

    # Rules

    def _check_empty(self) -> None:
        for what, pool in (("block", self.pool), ("host block", self.pool.host)):
            if pool is not None and pool.num_held:
                held = [block for block, count in enumerate(pool.ref_counts) if count]
                raise RuleError("INV-11", f"no {what} is held: every request has ended", f"{what}s {held} are held")

    def _check_as_new(self, prompt: int, output: int) -> None:
        """INV-8: a prompt that a new policy over a new pool admits is admitted by the one that has been used."""
        allocators = (self._make(), self.allocator)
        answers = []
        for allocator in allocators:
            request = Request(0, 0, prompt, output)
            request.oracle = bool(getattr(allocator, "oracle", False))
            sequence = request.sequences[0]
            ops = allocator.allocate(sequence, prompt)
            answers.append(ops is not None)
            if ops is not None:
                allocator.free(sequence)
        if answers == [True, False]:
            expected = f"room for a prompt of {prompt} tokens: the pool is empty, and a new one has room for it"
            raise RuleError("INV-8", expected, "None: it would wait for ever")
        self._check_empty()

    def _check_room(self, sequence: Sequence, num_tokens: int) -> None:
        checks.coverage(sequence, num_tokens, self.pool.block_size, self._names)

    def _check_sharing(self, job: Job, stored: dict[Sequence, int], shared: list[list[int]], when: str) -> None:
        found = checks.sharing(stored, stored)
        if found != shared:
            said = f"the same sharing {when} among {', '.join(self._names[s] for s in stored)}: {shared}"
            raise RuleError("INV-12", said, f"{found}")

    def _state(self) -> checks.State:
        return checks.State.of(self.allocator, self._names)

    def _unchanged(self, before: checks.State, rule: str, expected: str) -> None:
        difference = before.difference(self._state(), self._names)
        if difference is not None:
            raise RuleError(rule, expected, difference)

    def _ask(self, verb: str, changing: Iterable[Sequence], function: Callable[[], Any]) -> bool:
        """Call the policy, check what holds after any call, and add its plan; return whether there was room."""
        before, generation = self._state(), self.pool.generation
        answer = function()
        self.tally[verb] += 1
        if verb == "free":
            wanted, is_right, is_granted = "", True, True
        elif verb == "extend":
            wanted, is_right, is_granted = "True or False", isinstance(answer, bool), bool(answer)
        else:
            wanted = "BlockOps, or None where there is no room"
            is_right, is_granted = answer is None or isinstance(answer, BlockOps), answer is not None
        if not is_right:
            raise RuleError("answer", f"{verb} answers {wanted}", f"{answer!r}")
        if not is_granted:
            self.tally[f"{verb} refused"] += 1
            self._unchanged(before, "INV-4", f"{verb} answered {answer}, so nothing has changed")
            return False
        checks.conservation(list(self._names), self._names, self.allocator)
        after, allowed = self._state(), set(changing)
        for sequence, holding in before.tables.items():
            if sequence not in allowed and after.tables[sequence] != holding:
                difference = checks.State.difference(before, after, self._names)
                raise RuleError("answer", f"{verb} leaves the tables of other sequences alone", f"{difference}")
            if after.tables[sequence][-1] != holding[-1]:
                raise RuleError(
                    "answer", "a policy leaves num_stored alone", f"{verb} changed it for {self._names[sequence]}"
                )
        if after.floor != before.floor:
            raise RuleError("answer", "a policy leaves pool.floor alone", f"{verb} set it to {after.floor}")
        if isinstance(answer, BlockOps):
            self._plan += answer
        if not self._plan and generation != self.pool.generation:
            self.contents.poison()
        return True

    def _is_in_step(self, job: Job) -> bool:
        """Whether all of its sequences decode: each has one token to store."""
        return job.request.forked and all(
            sequence.num_generated and self._need(job, sequence) == 1 and sequence.block_table for sequence in job.live
        )

    def _copies(self, job: Job) -> bool:
        """Whether the next token of one of its sequences goes to a block that somebody shares."""
        size = self.pool.block_size
        blocks = (sequence.block_table[sequence.num_stored // size :] for sequence in job.live)
        return any(self.pool.ref_counts[block] > 1 for table in blocks for block in table)

    def _others_hold(self, job: Job) -> bool:
        return any(
            other is not job and other.place is Place.RUNNING and any(s.block_table for s in other.request.sequences)
            for other in self.jobs
        )

    def _make(self) -> Any:
        num_blocks, block_size, watermark, host_blocks = self._sizes
        host = BlockPool(host_blocks, block_size) if host_blocks else None
        pool = BlockPool(num_blocks, block_size, watermark=watermark, host=host)
        return self.policy.build(pool, self.max_model_len)

    # The program

    @property
    def program(self) -> str:
        """What was done so far, as a test."""
        written = dict(self._written)
        if all(job.request.prefix_group is None for job in self.jobs):
            written.pop("prefix_tokens", None)
        return as_test(self.policy, "Bench", [call("bench = Bench", "policy", **written), *_merged(self._lines)])

    def picture(self) -> str:
        """Return the pool as text: each block with who holds it and what is in it."""
        held = checks.owners(self._names, self._names, self.allocator)
        return draw(self.contents, held, checks.host_owners(self._names, self._names))

    @contextlib.contextmanager
    def _line(self, text: str, verb: str | None = None, *jobs: Job) -> Iterator[Callable[[bool], bool]]:
        """Add a line to the program; turn a broken rule, or what the policy raises, into a ContractError."""
        for job in jobs:
            if verb is not None and not self.may(verb, job):
                raise ValueError(f"{text}: {job} is {job.place.value}; a scheduler would not call {verb} now")
        self._lines.append(text)

        def answer(is_granted: bool) -> bool:
            if not is_granted:
                self._lines[-1] = f"{text}  # no room"
            return is_granted

        try:
            yield answer
        except ContractError:
            raise
        except Exception as error:
            self.is_broken = True
            broken = (
                error if isinstance(error, RuleError) else raised(error, "a call that the pool allows, and an answer")
            )
            self._lines[-1] = f"{text}  # {broken.rule}"
            cause = None if isinstance(error, RuleError | InvariantError) else error
            raise ContractError(broken, self.picture(), self.program) from cause


def _merged(lines: Iterable[str]) -> list[str]:
    """Write ``decode`` after ``decode`` as one."""
    merged: list[str] = []
    num_steps = 0
    for line in lines:
        match = _DECODE.fullmatch(line)
        num_steps = num_steps + int(match[1] or 1) if match else 0
        if match and num_steps > int(match[1] or 1):
            merged.pop()
        merged.append(f"bench.decode({'' if num_steps == 1 else num_steps}){match[2]}" if match else line)
        if match and match[2]:
            num_steps = 0
    return merged


def _letters(number: int) -> str:
    """Return a, b, ... z, aa, ab, ..."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("a") + rest) + name
    return name
