"""The numbered rules, looked up in the pool and the tables of all sequences. Each raises ``RuleError``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Listing
from dataclasses import dataclass
from typing import Any, NamedTuple

from pagesim.allocators.base import Allocator
from pagesim.allocators.prefixes import PrefixTable
from pagesim.blocks import BlockPool
from pagesim.sequence import Sequence
from pagesim.testing.failure import RuleError

Names = Mapping[Sequence, str]
"""What each sequence is called in a program: ``a`` or ``a.1``."""

PIN = "pin of group"


class Holding(NamedTuple):
    """What a sequence holds."""

    block_table: tuple[int, ...]
    host_table: tuple[int, ...]
    resident_table: tuple[int, ...]
    num_asked: int | None
    num_stored: int

    @classmethod
    def of(cls, sequence: Sequence) -> Holding:
        """Copy it."""
        return cls(
            tuple(sequence.block_table),
            tuple(sequence.host_table),
            tuple(sequence.resident_table),
            sequence.num_asked,
            sequence.num_stored,
        )


@dataclass(frozen=True)
class State:
    """Everything that a refused call must leave as it was."""

    device: tuple[int, ...]
    num_free: int
    host: tuple[int, ...]
    num_free_host: int
    floor: int
    largest_free_run: int | None
    tables: dict[Sequence, Holding]

    @classmethod
    def of(cls, allocator: Allocator, sequences: Iterable[Sequence]) -> State:
        """Take a snapshot of the pool, of the host's, and of what every sequence holds."""
        pool = allocator.pool
        host = pool.host
        largest = getattr(allocator, "largest_free_run", None)
        return cls(
            tuple(pool.ref_counts),
            pool.num_blocks - pool.num_held,
            () if host is None else tuple(host.ref_counts),
            0 if host is None else host.num_blocks - host.num_held,
            pool.floor,
            None if largest is None else largest(),
            {sequence: Holding.of(sequence) for sequence in sequences},
        )

    def difference(self, after: State, names: Names) -> str | None:
        """Return in words the first thing that is different in ``after``; None if nothing is."""
        for sequence, holding in self.tables.items():
            for what, one, other in zip(Holding._fields, holding, after.tables[sequence], strict=True):
                if one != other:
                    return f"{what} of {names[sequence]} was {_shown(one)} and is {_shown(other)}"
        for what, before, now in (("block", self.device, after.device), ("host block", self.host, after.host)):
            for block, (one, other) in enumerate(zip(before, now, strict=True)):
                if one != other:
                    return f"the reference count of {what} {block} was {one} and is {other}"
        for what, one, other in (
            ("the number of free blocks", self.num_free, after.num_free),
            ("the number of free host blocks", self.num_free_host, after.num_free_host),
            ("pool.floor", self.floor, after.floor),
            ("largest_free_run()", self.largest_free_run, after.largest_free_run),
        ):
            if one != other:
                return f"{what} was {one} and is {other}"
        return None


def _shown(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def owners(sequences: Iterable[Sequence], names: Names, allocator: Allocator) -> dict[int, list[str]]:
    """Return who names each device block: ``a[0]`` for a table's first entry, ``pin`` for a pinned prefix."""
    found: dict[int, list[str]] = defaultdict(list)
    for sequence in sequences:
        for table in (sequence.block_table, sequence.resident_table):
            for index, block in enumerate(table):
                found[block].append(f"{names[sequence]}[{index}]")
    prefixes = getattr(allocator, "prefixes", None)
    if isinstance(prefixes, PrefixTable) and prefixes.pin:
        for group, entry in prefixes.entries.items():
            for block in entry.blocks:
                found[block].append(f"{PIN} {group}")
    return found


def host_owners(sequences: Iterable[Sequence], names: Names) -> dict[int, list[str]]:
    """Return who names each host block."""
    found: dict[int, list[str]] = defaultdict(list)
    for sequence in sequences:
        for index, block in enumerate(sequence.host_table):
            found[block].append(f"{names[sequence]}[{len(sequence.resident_table) + index}]")
    return found


def tables(sequences: Iterable[Sequence], names: Names, pool: BlockPool) -> None:
    """Check that every table names blocks that exist, and none of them twice."""
    num_homes = 0 if pool.host is None else pool.host.num_blocks
    for sequence in sequences:
        for what, table, limit in (
            ("block_table", sequence.block_table, pool.num_blocks),
            ("host_table", sequence.host_table, num_homes),
        ):
            if any(not 0 <= block < limit for block in table):
                raise RuleError("INV-1", f"blocks from 0 to {limit - 1}", f"{what} of {names[sequence]}: {list(table)}")
            if len(set(table)) < len(table):
                raise RuleError("INV-1", "each block once in a table", f"{what} of {names[sequence]}: {list(table)}")


def conservation(sequences: Listing[Sequence], names: Names, allocator: Allocator) -> None:
    """INV-1, on the device and on the host."""
    pool = allocator.pool
    tables(sequences, names, pool)
    _count(pool, owners(sequences, names, allocator), "block")
    if pool.host is not None:
        _count(pool.host, host_owners(sequences, names), "host block")


def _count(pool: BlockPool, found: Mapping[int, list[str]], what: str) -> None:
    for block, count in enumerate(pool.ref_counts):
        holders = found.get(block, [])
        if count != len(holders):
            said = f"named by {', '.join(holders)}" if holders else "named by no table"
            raise RuleError("INV-1", f"{what} {block} with reference count {len(holders)}: {said}", f"{count}")
    if pool.num_held != len(found):
        raise RuleError("INV-1", f"{len(found)} {what}s held", f"the pool counts {pool.num_held}")


def capacity(sequence: Sequence, block_size: int) -> int:
    """Return how many tokens a sequence may store: what its policy asked for, or all that its table holds."""
    slots = len(sequence.block_table) * block_size
    return slots if sequence.num_asked is None else min(sequence.num_asked, slots)


def coverage(sequence: Sequence, num_tokens: int, block_size: int, names: Names) -> None:
    """INV-2: there is room for ``num_tokens`` in all."""
    slots, name = len(sequence.block_table) * block_size, names[sequence]
    if slots < num_tokens:
        raise RuleError("INV-2", f"a block table of {name} with room for {num_tokens} tokens", f"room for {slots}")
    asked = sequence.num_asked
    if asked is not None and not num_tokens <= asked <= slots:
        raise RuleError(
            "INV-2", f"num_asked of {name} from {num_tokens} (its tokens) to {slots} (its slots)", f"{asked}"
        )


def exclusive(sequence: Sequence, first: int, num_tokens: int, size: int, found: Mapping[int, list[str]]) -> None:
    """INV-3: no other table names the blocks that the next ``num_tokens`` tokens go to.

    A pin does not count: it keeps what its first writer stores.
    """
    for index in range(first // size, (first + num_tokens - 1) // size + 1):
        block = sequence.block_table[index]
        holders = [holder for holder in found.get(block, []) if not holder.startswith(PIN)]
        if len(holders) != 1:
            raise RuleError(
                "INV-3",
                f"block {block} in one table only: token {max(first, index * size)} is written to it",
                f"{' and '.join(holders)} are the same block",
            )


def sharing(sequences: Iterable[Sequence], num_blocks: Mapping[Sequence, int]) -> list[list[int]]:
    """Return who shares what, without block numbers: each distinct block numbered by where it is first seen.

    Of sequences on the device or on the host, their first ``num_blocks``.
    """
    seen: dict[tuple[str, int], int] = {}
    rows = []
    for sequence in sequences:
        homes = [("host", block) for block in sequence.host_table]
        blocks = [("device", block) for block in [*sequence.block_table, *sequence.resident_table]] + homes
        rows.append([seen.setdefault(block, len(seen)) for block in blocks[: num_blocks[sequence]]])
    return rows
