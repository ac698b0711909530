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

from collections.abc import Callable
from typing import Any, TypeVar

from pagesim.errors import InvariantError, PluginError
from pagesim.sequence import Request
from pagesim.testing import checks
from pagesim.testing.asked import Asked, Sizes
from pagesim.testing.failure import ContractError, RuleError, raised
from pagesim.testing.job import Job
from pagesim.testing.picture import draw
from pagesim.testing.player import Player
from pagesim.testing.policies import Factory, Policy
from pagesim.testing.program import Call, as_test, call, given

_DEFAULTS: dict[str, Any] = {
    "block_size": 1,
    "watermark": 0,
    "host_blocks": 0,
    "max_model_len": None,
    "prefix_tokens": 0,
}

_Answer = TypeVar("_Answer")


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
        sizes: the arguments between ``policy`` and ``options``, by name.
        calls: what has been done so far.
        asked: the policy, with every rule about its answers.
        is_broken: whether a rule has been broken: then nothing more can be learnt.
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
        sizes = Sizes(num_blocks, block_size, watermark, host_blocks)
        self.sizes = {**sizes._asdict(), "max_model_len": max_model_len, "prefix_tokens": prefix_tokens}
        self.policy = Policy(policy, options)
        self.max_model_len = max_model_len or max(num_blocks * block_size, 2)
        try:
            self.asked = Asked(self.policy, sizes, self.max_model_len)
        except PluginError as error:
            raise PluginError(f"{error} (a pool of {num_blocks} blocks of {block_size} slots)") from error
        self.tally = self.asked.tally
        self.calls: list[Call] = []
        self.is_broken = False
        self._player = Player(self.asked)

    @property
    def jobs(self) -> list[Job]:
        """All requests, in the order in which they came."""
        return self._player.jobs

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything: a plan to execute, tokens to store, or a request that may grow."""
        return self._player.has_work

    def may(self, verb: str, job: Job, *indices: int) -> bool:
        """Return whether a scheduler would call ``verb`` for ``job`` now, or for those of its sequences."""
        return self._player.may(verb, job, *indices)

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

        Raises ValueError where it is longer than ``max_model_len``.
        """
        if prompt < 1 or output < 1 or prompt + output > self.max_model_len:
            raise ValueError(f"a request of {prompt} + {output} tokens, where at most {self.max_model_len} are allowed")
        request = Request(len(self.jobs), 0, prompt, output, sequences, estimate)
        request.oracle = self.asked.is_oracle
        request.forked = request.forked or not self.asked.can_fork
        if group is not None:
            request.prefix_group, request.prefix_tokens = group, self.sizes["prefix_tokens"]
        job = Job(_letters(len(self.jobs)), request)
        self.jobs.append(job)
        self.asked.names.update((sequence, job.name_of(sequence)) for sequence in request.sequences)
        written = {"prompt": prompt, "output": output, "sequences": sequences, "estimate": estimate, "group": group}
        self.calls.append(Call("request", (), written, made=job))
        return job

    def admit(self, job: Job) -> bool:
        """Allocate the prompt of a waiting request, above the watermark; False: no room now."""
        return self._call(self._player.admit, job)

    def grow(self, job: Job) -> bool:
        """Perform the forks of a running request, then make room for each sequence's next token."""
        return self._call(self._player.grow, job)

    def fork(self, job: Job, parent: int, replaced: int) -> bool:
        """Let a sequence go on from another's stored tokens, and free the one in whose place it comes: a beam."""
        return self._call(self._player.fork, job, parent, replaced)

    def swap_out(self, job: Job) -> bool:
        """Move a running request to the host; False: no room there."""
        return self._call(self._player.swap_out, job)

    def swap_in(self, job: Job) -> bool:
        """Bring a request back, above the watermark; False: no room now."""
        return self._call(self._player.swap_in, job)

    def preempt(self, job: Job) -> None:
        """Take all memory of a running request away; it waits again, to be computed anew."""
        self._call(self._player.preempt, job)

    def free(self, job: Job, index: int | None = None) -> None:
        """End a request, or one of its sequences: its memory is given back."""
        self._call(self._player.free, job, *([] if index is None else [index]))

    def step(self, chunk: int | None = None) -> None:
        """Execute the plan, store what was granted (of a prompt at most ``chunk`` tokens), and read all back."""
        self._call(self._player.step, *([] if chunk is None else [chunk]))

    def decode(self, num_steps: int = 1) -> None:
        """Make room for everyone's next token, as far as there is any, and take a step; ``num_steps`` times."""
        self._call(self._player.decode, num_steps)

    def drain(self) -> None:
        """End everything, and check that the pool is as good as new: what a new one admits, it admits again."""
        self._call(self._player.drain)

    @property
    def program(self) -> str:
        """What was done so far, as a test."""
        written = given(self.sizes, _DEFAULTS)
        if all(job.request.prefix_group is None for job in self.jobs):
            written.pop("prefix_tokens", None)
        made = call("bench = Bench", "policy", **written, **self.policy.options)
        return as_test(self.policy, "Bench", [made, *map(str, self.calls)])

    def picture(self) -> str:
        """Return the pool as text: each block with who holds it and what is in it."""
        names = self.asked.names
        return draw(self.asked.contents, self.asked.owners(), checks.host_owners(names, names))

    def _call(self, verb: Callable[..., _Answer], *arguments: Job | int) -> _Answer:
        """Write a call down and make it; turn a broken rule, or what the policy raises, into a ContractError."""
        made = Call(verb.__name__, arguments)
        for job in made.jobs:
            if not self.may(made.verb, job, *made.numbers):
                raise ValueError(f"{made}: {job} is {job.place.value}; a scheduler would not call {made.verb} now")
        self.calls.append(made)
        try:
            answer = verb(*arguments)
        except Exception as error:
            self.is_broken = True
            expected = "a call that the pool allows, and an answer"
            broken = error if isinstance(error, RuleError) else raised(error, expected)
            self.calls[-1] = made._replace(note=broken.rule)
            cause = None if isinstance(error, RuleError | InvariantError) else error
            raise ContractError(broken, self.picture(), self.program) from cause
        if answer is False:
            self.calls[-1] = made._replace(note="no room")
        return answer


def _letters(number: int) -> str:
    """Return a, b, ... z, aa, ab, ..."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("a") + rest) + name
    return name
