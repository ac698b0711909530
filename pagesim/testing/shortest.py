"""The shortest program: calls are left out and numbers made smaller for as long as the same rule is broken.

Hypothesis shrinks what it drew, and a program is more than that: who is picked depends on who is there. Here whole
calls go, with everything that only makes sense after them, so the result is short wherever the search began.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Listing

from pagesim.errors import ConfigError
from pagesim.testing.bench import Bench
from pagesim.testing.failure import ContractError
from pagesim.testing.job import Job
from pagesim.testing.policies import Policy
from pagesim.testing.program import Call

Sizes = Mapping[str, int | None]

_LEAST = {"num_blocks": 1, "block_size": 1, "prompt": 1, "output": 1, "sequences": 1, "decode": 1, "step": 1}
"""The smallest that a number may be; the others may be 0."""

_OPTIONAL = ("max_model_len", "estimate", "group")


def shortest(bench: Bench, error: ContractError) -> ContractError:
    """Return how a shorter program breaks the rule that was broken on ``bench``; ``error`` if there is none."""
    search = _Search(bench, error)
    while True:
        before = search.cost
        search.leave_out()
        search.join()
        search.lower()
        if search.cost == before:
            return search.error


class _Search:
    """The shortest program so far, and ways to a shorter one."""

    def __init__(self, bench: Bench, error: ContractError) -> None:
        self.policy = bench.policy
        self.rule = error.rule
        self.error = error
        self.sizes: Sizes = bench.sizes
        self.calls = bench.calls
        self.cost = _cost(self.sizes, self.calls)

    def leave_out(self) -> None:
        """Leave calls out: the second half, the first, quarters, and at last single ones, from the end."""
        length = len(self.calls)
        while length := length // 2:
            start = len(self.calls) - length
            while start >= 0:
                self._try(self.sizes, [*self.calls[:start], *self.calls[start + length :]])
                start = min(start, len(self.calls)) - length

    def join(self) -> None:
        """Write ``decode`` after ``decode`` as one."""
        index = 1
        while index < len(self.calls):
            one, other = self.calls[index - 1 : index + 1]
            if not (one.verb == other.verb == "decode" and self._try(self.sizes, self._joined(index))):
                index += 1

    def lower(self) -> None:
        """Make each number smaller, for itself."""
        for name, value in self.sizes.items():
            for lower in _lower_or_none(name, value):
                if self._try({**self.sizes, name: lower}, self.calls):
                    break
        index = 0
        while index < len(self.calls):
            made = self.calls[index]
            if not any(
                self._try(self.sizes, [*self.calls[:index], simpler, *self.calls[index + 1 :]])
                for simpler in _simpler(made)
            ):
                index += 1

    def _joined(self, index: int) -> list[Call]:
        one, other = self.calls[index - 1 : index + 1]
        both = Call("decode", (sum(one.numbers + other.numbers),))
        return [*self.calls[: index - 1], both, *self.calls[index + 1 :]]

    def _try(self, sizes: Sizes, calls: Listing[Call]) -> bool:
        """Run a program, and keep it if it is shorter and breaks the same rule."""
        if _cost(sizes, calls) >= self.cost:
            return False
        bench, error = _replay(self.policy, sizes, calls)
        if bench is None or error is None or error.rule != self.rule:
            return False
        self.error, self.sizes, self.calls = error, bench.sizes, bench.calls
        self.cost = _cost(self.sizes, self.calls)
        return True


def _replay(policy: Policy, sizes: Sizes, calls: Listing[Call]) -> tuple[Bench | None, ContractError | None]:
    """Make those of the calls that can be made, up to the one that breaks a rule."""
    try:
        bench = Bench(policy.factory, **sizes, **policy.options)  # type: ignore[arg-type]
    except ConfigError:
        return None, None
    jobs: dict[str, Job] = {}
    for made in calls:
        arguments = [jobs.get(each.name) if isinstance(each, Job) else each for each in made.arguments]
        if None in arguments:
            continue
        try:
            answer = getattr(bench, made.verb)(*arguments, **made.keywords)
        except ContractError as error:
            return bench, error
        except ValueError:  # no scheduler would call it now
            continue
        if made.made is not None:
            jobs[made.made.name] = answer
    return bench, None


def _simpler(made: Call) -> Iterator[Call]:
    """Yield a call with one of its numbers smaller, the smallest first."""
    for name, value in made.keywords.items():
        for lower in _lower_or_none(name, value):
            yield made._replace(keywords={**made.keywords, name: lower})
    for index, each in enumerate(made.arguments):
        if isinstance(each, int):
            for lower in _lower(made.verb, each):
                yield made._replace(arguments=(*made.arguments[:index], lower, *made.arguments[index + 1 :]))
        elif len(made.jobs) > 1:
            yield made._replace(arguments=(*made.arguments[:index], *made.arguments[index + 1 :]))


def _lower(name: str, value: int) -> list[int]:
    least = _LEAST.get(name, 0)
    return [lower for lower in sorted({least, value // 2, value - 1}) if least <= lower < value]


def _lower_or_none(name: str, value: int | None) -> list[int | None]:
    """Return what to try for an argument that may be left out."""
    if value is None:
        return []
    return [*([None] if name in _OPTIONAL else []), *_lower(name, value)]


def _cost(sizes: Sizes, calls: Listing[Call]) -> tuple[int, int]:
    """Return (number of calls, sum of numbers); what is optional costs one more than its number."""
    given = [*sizes.items(), *(each for made in calls for each in made.keywords.items())]
    numbers = [value + (name in _OPTIONAL) for name, value in given if value is not None]
    return len(calls), sum(numbers) + sum(sum(made.numbers) + len(made.jobs) for made in calls)
