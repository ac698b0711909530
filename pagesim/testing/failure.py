"""What is said when a policy breaks the contract: the rule, what was expected, what came, and how to see it again."""

from __future__ import annotations

from pagesim.errors import InvariantError

RULES = {
    "answer": "a verb answers as the protocol says",
    "INV-1": "free + distinct held = total; a block is referenced once by each table and pin that names it",
    "INV-2": "a table's slots cover its stored tokens and those that it was granted",
    "INV-3": "the block that is written next is in one table only",
    "INV-4": "a call that answers None changes nothing",
    "INV-5": "arrival <= first token <= last token; the clock never runs back",
    "INV-7": "every request ends in exactly one bucket: finished, refused, unfinished",
    "INV-8": "nothing waits for ever that fits",
    "INV-9": "a sequence reads its own tokens, in their order, wherever they are",
    "INV-10": "fast-forwarding changes nothing",
    "INV-11": "everything is free when the last request has ended",
    "INV-12": "swapping out, then in, keeps contents and sharing",
    "bulk": "`bulk = True`: allocate does nothing while the table has room and its last block is not shared",
    "grows_by_block": "`grows_by_block = True`: a full table takes one more block of the pool as long as one is free",
    "counts_blocks": "`counts_blocks = True`: only as many blocks change hands as tokens need, whichever they are",
    "stable_refusal": "`stable_refusal = True`: what was refused is refused again until a block becomes free",
    "account": "live + cached + reserved + internal + external + free = the pool",
}
"""The rules of the contract, by the names under which they are reported."""


class RuleError(Exception):
    """A rule is broken; found by a check, which knows neither the program nor the pool."""

    def __init__(self, rule: str, expected: str, found: str) -> None:
        super().__init__(rule, expected, found)
        self.rule = rule
        self.expected = expected
        self.found = found


class ContractError(InvariantError):
    """A policy broke a rule of the contract.

    Attributes:
        rule: a key of ``RULES``.
        expected, found: one sentence each.
        picture: the pool at the moment it broke.
        program: Python that shows it again.
    """

    def __init__(self, broken: RuleError, picture: str, program: str) -> None:
        self.rule = broken.rule
        self.expected = broken.expected
        self.found = broken.found
        self.picture = picture
        self.program = program
        super().__init__(
            f"{self.rule}: {RULES[self.rule]}\n"
            f"  expected  {self.expected}\n"
            f"  found     {self.found}\n\n"
            f"{picture}\n\n"
            f"The program that shows it, as a test:\n\n{program}"
        )


def raised(error: Exception, expected: str) -> RuleError:
    """Return what it means that a policy, or the pool or the engine around it, raised."""
    if isinstance(error, InvariantError):
        rule, _, said = str(error).partition("\n")[0].partition(": ")
        if rule in RULES:
            return RuleError(rule, expected, said)
    return RuleError("answer", expected, f"{type(error).__name__}: {error}")
