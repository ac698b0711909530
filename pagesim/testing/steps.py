"""One step on a bench: the plan is executed, tokens are written where the tables say, and everything is read back."""

from __future__ import annotations

from collections.abc import Iterable

from pagesim.sequence import Sequence
from pagesim.testing import checks
from pagesim.testing.asked import Asked
from pagesim.testing.failure import RuleError
from pagesim.testing.job import Job, Place


def take(asked: Asked, jobs: Iterable[Job], chunk: int | None = None) -> None:
    """Execute the plan, store what was granted (of a prompt at most ``chunk`` tokens), and read all back."""
    contents, size = asked.contents, asked.pool.block_size
    jobs = list(jobs)
    contents.perform(asked.plan)
    asked.plan.clear()
    for job in jobs:
        read(asked, job)
    held = asked.owners()
    written: list[tuple[Job, Sequence, int]] = []
    for job in jobs:
        for sequence, granted in job.granted.items():
            num_tokens = min(granted, chunk or granted)
            if num_tokens:
                checks.coverage(sequence, sequence.num_stored + num_tokens, size, asked.names)
                checks.exclusive(sequence, sequence.num_stored, num_tokens, size, held)
                written.append((job, sequence, num_tokens))
    for job, sequence, num_tokens in written:
        for position in range(sequence.num_stored, sequence.num_stored + num_tokens):
            contents.device[contents.slot(sequence.block_table, position)] = job.tokens[sequence][position]
    for job, sequence, num_tokens in written:
        job.store(sequence, num_tokens)
    for job in jobs:
        job.is_granted = False
        read(asked, job)
    contents.poison()
    asked.tally["steps"] += 1


def read(asked: Asked, job: Job) -> None:
    """INV-9, INV-12: read every stored token of a request through its tables."""
    if job.place is Place.GONE:
        return
    contents, size = asked.contents, asked.pool.block_size
    for sequence in job.request.sequences:
        table, where = sequence.block_table, ""
        if not table and job.place is Place.SWAPPED:
            table, where = [*sequence.resident_table, *sequence.host_table], " while it is swapped out"
        if not table:
            continue  # one that has ended, and was freed before the others
        num_on_device = len(sequence.block_table or sequence.resident_table) * size
        for position, wanted in enumerate(job.tokens[sequence][: sequence.num_stored]):
            memory = contents.device if position < num_on_device else contents.host
            slot = contents.slot(table, position)
            found = memory.get(slot)
            if found != wanted:
                said = f"{asked.names[sequence]} reads {wanted} as its token {position}{where}"
                rule = "INV-12" if where else "INV-9"
                raise RuleError(rule, said, f"{'nothing' if found is None else found} in slot {slot}")
