"""The contract is worth something: it finds every planted mistake, and shows it with a short program that runs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pagesim.testing.contract import check_calls, quiet
from pagesim.testing.failure import ContractError
from pagesim.testing.policies import Policy
from tests.support.broken_policies import BROKEN


def ran(program: str) -> dict[str, Any]:
    """Run a program as if it had been pasted into a test file."""
    module: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(program, "pasted.py", "exec"), module)
    (test,) = (value for name, value in module.items() if name.startswith("test_"))
    test()
    return module


@pytest.mark.parametrize("policy", BROKEN, ids=lambda policy: policy.__name__)
def test_a_planted_mistake_is_found_and_its_program_shows_it_again(policy: type[Any]) -> None:
    with pytest.raises(ContractError) as caught:
        check_calls(Policy(policy), quiet(400), 0)
    error = caught.value
    assert error.rule in BROKEN[policy], str(error)
    program = error.program
    assert len(program.splitlines()) <= 18, program
    assert f"# {error.rule}" in program or policy.__name__ == "AdmitsNobody"
    if policy.__name__ == "AdmitsNobody":
        ran(program)  # a refusal is no mistake; never to admit anybody is
        return
    with pytest.raises(ContractError) as again:
        ran(program)
    assert str(again.value) == re.sub(r"\n\s+# .*", "", str(error))
