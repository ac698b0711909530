"""A scheduler says whether anything is left to do: the engine ends a run, or reports an idle one, by it."""

from __future__ import annotations

import pytest

from pagesim.sequence import Request
from tests.support.runs import SCHEDULERS, Server


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_each_queue_alone_is_work(scheduler: str) -> None:
    options = {"preemption": "swap"}
    server = Server(4, 1, "swapping", scheduler, host_blocks=4, max_num_batched_tokens=64, options=options)
    sched, found = server.sched, []
    found.append(("nothing has come", sched.has_work))
    sched.add(Request(0, 0, 2, 2))
    found.append(("one waits", sched.has_work))
    sched.commit(sched.schedule(0), 1)
    found.append(("it runs", sched.has_work))
    sched.commit(sched.schedule(1), 2)
    found.append(("it has ended", sched.has_work))
    sched.swapped.append(Request(1, 0, 2, 2))
    found.append(("one is on the host", sched.has_work))
    assert found == [
        ("nothing has come", False),
        ("one waits", True),
        ("it runs", True),
        ("it has ended", False),
        ("one is on the host", True),
    ]
