"""Copy-on-write and swapping against a model that knows nothing of blocks: plain sets of cells that hold tokens.

The model works in steps: all verbs, then the plan's moves in order, then the writes; a freed slot is poisoned, and
every sequence is read back. After each step the number of free blocks, who shares what, and the copies are compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.swapping import Swapping
from pagesim.blocks import BlockOps, BlockPool, Copy, SwapOut
from pagesim.sequence import Request, Sequence

Token = tuple[int, int]
"""(number of the write, position): no two tokens are the same."""

POISON: Token = (-1, -1)


class Cells:
    """What a naive reader would keep: each sequence is a list of shared groups of tokens.

    A cell is a set of at most ``size`` tokens; sequences that share it name the same object. A write to a cell that
    others name too makes a new one.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.tables: dict[Sequence, list[set[Token]]] = {}
        self.num_copies = 0

    def begin(self, sequence: Sequence) -> None:
        self.tables[sequence] = []

    def fork(self, parent: Sequence, child: Sequence) -> None:
        self.tables[child] = list(self.tables[parent])

    def drop(self, sequence: Sequence) -> None:
        del self.tables[sequence]

    def write(self, sequence: Sequence, token: Token) -> None:
        table = self.tables[sequence]
        if not table or len(table[-1]) == self.size:
            table.append(set())
        elif sum(cell is table[-1] for other in self.tables.values() for cell in other) > 1:
            table[-1] = set(table[-1])
            self.num_copies += 1
        table[-1].add(token)

    def tokens(self, sequence: Sequence) -> list[Token]:
        return sorted((token for cell in self.tables[sequence] for token in cell), key=lambda token: token[1])

    def distinct(self) -> int:
        return len({id(cell) for table in self.tables.values() for cell in table})

    def partition(self, order: Iterable[Sequence]) -> list[list[int]]:
        return _partition([[id(cell) for cell in self.tables[sequence]] for sequence in order])


def _partition(tables: list[list[int]]) -> list[list[int]]:
    """Rename blocks by their first appearance, so that only who shares what is left."""
    names: dict[int, int] = {}
    return [[names.setdefault(block, len(names)) for block in table] for table in tables]


class Program:
    """A random program of verbs on one allocator and the model."""

    def __init__(self, rng: Random, cls: type[CopyOnWrite]) -> None:
        self.rng = rng
        self.size = rng.randint(1, 5)
        host = BlockPool(rng.randint(0, 12), self.size)
        self.pool = BlockPool(rng.randint(1, 24), self.size, host=host)
        self.allocator = cls(self.pool)
        self.model = Cells(self.size)
        self.device: dict[int, Token] = {}
        self.host: dict[int, Token] = {}
        self.running: list[Sequence] = []
        self.swapped: list[list[Sequence]] = []
        self.num_writes = 0
        self.num_copied = 0

    def step(self) -> None:
        """Do one thing, perform its plan, write, and compare everything."""
        verbs = [self.start, self.grow, self.grow, self.grow, self.fork, self.fork, self.end]
        if isinstance(self.allocator, Swapping):
            verbs += [self.swap_out, self.swap_in]
        self.rng.choice(verbs)()
        self.compare()

    def start(self) -> None:
        prompt = self.rng.randint(1, 9)
        sequence = Request(len(self.running), 0, prompt, 50).sequences[0]
        ops = self.allocator.allocate(sequence, prompt)
        if ops is None:
            assert self.pool.blocks_for(prompt) > self.pool.num_free
            return
        self.running.append(sequence)
        self.model.begin(sequence)
        self.finish_step(ops, {sequence: prompt})

    def grow(self) -> None:
        """Several sequences in one step: their plans in order, then all writes."""
        chosen = self.rng.sample(self.running, self.rng.randint(0, len(self.running)))
        plan, writes = BlockOps(), {}
        for sequence in chosen:
            count = self.rng.choice([1, 1, 1, self.rng.randint(2, 7)])
            ops = self.allocator.allocate(sequence, count)
            if ops is not None:
                plan += ops
                writes[sequence] = count
        self.finish_step(plan, writes)

    def fork(self) -> None:
        if not self.running:
            return
        parent = self.rng.choice(self.running)
        child = Sequence(parent.request, 1)
        ops = self.allocator.fork(parent, child)
        assert ops == []
        child.num_stored = parent.num_stored
        self.running.append(child)
        self.model.fork(parent, child)

    def end(self) -> None:
        if not self.running:
            return
        sequence = self.running.pop(self.rng.randrange(len(self.running)))
        self.allocator.free(sequence)
        assert len(sequence.block_table) == 0
        self.model.drop(sequence)
        self.poison()

    def swap_out(self) -> None:
        """Take out everything that shares anything with one sequence: a request's sequences."""
        assert isinstance(self.allocator, Swapping)
        if not self.running:
            return
        first = self.rng.choice(self.running)
        group = [sequence for sequence in self.running if sequence.request is first.request]
        before = [list(sequence.block_table) for sequence in group]
        ops = self.allocator.swap_out(group)
        distinct = {block for table in before for block in table[: self.pool.blocks_for(50 * self.size)]}
        if ops is None:
            assert [list(sequence.block_table) for sequence in group] == before
            return
        stored = {b for s, t in zip(group, before, strict=True) for b in t[: self.pool.blocks_for(s.num_stored)]}
        assert len(ops) == len(stored) <= len(distinct)  # one transfer a distinct block
        self.running = [sequence for sequence in self.running if sequence not in group]
        self.swapped.append(group)
        self.finish_step(ops, {})

    def swap_in(self) -> None:
        assert isinstance(self.allocator, Swapping)
        if not self.swapped:
            return
        group = self.swapped[self.rng.randrange(len(self.swapped))]
        ops = self.allocator.swap_in(group)
        if ops is None:
            return
        self.swapped.remove(group)
        self.running += group
        self.finish_step(ops, {})

    def finish_step(self, ops: BlockOps, writes: dict[Sequence, int]) -> None:
        """Perform the plan in order, then the writes into the slots that the tables name."""
        for op in ops:
            if isinstance(op, Copy):
                self.num_copied += op.num_blocks
                self.move(self.device, op.source, self.device, op.destination)
            elif isinstance(op, SwapOut):
                self.move(self.device, op.device, self.host, op.host)
            else:
                self.move(self.host, op.host, self.device, op.device)
        for sequence, count in writes.items():
            for position in range(sequence.num_stored, sequence.num_stored + count):
                self.num_writes += 1
                token = (self.num_writes, position)
                block = sequence.block_table[position // self.size]
                assert self.pool.ref_counts[block] == 1, "INV-3: a shared block is written"
                self.device[block * self.size + position % self.size] = token
                self.model.write(sequence, token)
            sequence.num_stored += count
        self.poison()

    def move(self, source: dict[int, Token], start: int, target: dict[int, Token], end: int) -> None:
        for offset in range(self.size):
            target[end * self.size + offset] = source.get(start * self.size + offset, POISON)

    def poison(self) -> None:
        for block, count in enumerate(self.pool.ref_counts):
            if not count:
                for offset in range(self.size):
                    self.device[block * self.size + offset] = POISON

    def compare(self) -> None:
        """Free counts, sharing, copies, and every token of every running sequence."""
        for sequence in self.running:
            slots = [
                sequence.block_table[position // self.size] * self.size + position % self.size
                for position in range(sequence.num_stored)
            ]
            assert [self.device[slot] for slot in slots] == self.model.tokens(sequence)
        stored = [s.block_table[: self.pool.blocks_for(s.num_stored)] for s in self.running]
        assert _partition(stored) == self.model.partition(self.running)
        assert self.num_copied == self.model.num_copies
        on_host = {id(cell) for group in self.swapped for sequence in group for cell in self.model.tables[sequence]}
        held = {block for sequence in self.running for block in sequence.block_table}
        assert self.pool.num_held == len(held) >= self.model.distinct() - len(on_host)
        assert self.pool.host is not None
        assert self.pool.host.num_held == len(on_host)


@pytest.mark.parametrize("cls", [CopyOnWrite, Swapping])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_inv_1_3_12_blocks_tell_the_same_story_as_plain_sets_of_tokens(cls: type[CopyOnWrite], seed: int) -> None:
    program = Program(Random(seed), cls)
    for _ in range(60):
        program.step()
    for sequence in list(program.running):
        program.allocator.free(sequence)
    if not program.swapped:
        assert program.pool.num_held == 0
