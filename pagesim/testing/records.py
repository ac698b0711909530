"""The rules that a run has to keep, looked up in what it leaves behind."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from itertools import pairwise

from pagesim.record import STATUSES, Record
from pagesim.sequence import Request
from pagesim.testing.failure import RuleError


def causality(record: Record) -> None:
    """INV-5, for every request that has finished."""
    names = ("arrival", "admitted_at", "first_token_at", "last_token_at")
    finished = record.column("status") == STATUSES.index("finished")
    for one, other in pairwise(names):
        late = (record.column(one) > record.column(other)) & finished
        if late.any():
            raise RuleError("INV-5", f"{one} <= {other}", f"request {int(late.argmax())} has them the other way round")


def one_bucket(record: Record, requests: Listing[Request]) -> None:
    """INV-7: one row a request, and the buckets agree with the requests."""
    rows = record.column("request").tolist()
    if rows != [request.id for request in requests]:
        raise RuleError("INV-7", f"a row for each of {len(requests)} requests, in their order", f"rows {rows}")
    for request, status in zip(requests, record.column("status"), strict=True):
        if STATUSES[status] == "unfinished" or STATUSES[status] != request.status.value:
            raise RuleError("INV-7", f"{request} finished or refused", STATUSES[status])


def same(fast: Record, slow: Record) -> None:
    """INV-10: everything that two runs leave behind."""
    for name in ("refusals", "opened", "closed", "end", "peak_running", "peak_running_in_window", "edges", "bin_width"):
        one, other = getattr(fast, name), getattr(slow, name)
        if one != other:
            raise RuleError("INV-10", f"{name} as without fast-forwarding: {other}", f"{one}")
    if fast.requests.tolist() != slow.requests.tolist():
        raise RuleError(
            "INV-10", f"rows as without fast-forwarding: {slow.requests.tolist()}", f"{fast.requests.tolist()}"
        )
    if (fast.gaps.counts, fast.gaps.maximum) != (slow.gaps.counts, slow.gaps.maximum):
        raise RuleError("INV-10", f"gaps as without fast-forwarding: {slow.gaps.counts}", f"{fast.gaps.counts}")
