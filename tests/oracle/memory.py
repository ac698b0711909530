"""Who holds how much: counting models of the allocators, with addresses only where a rule needs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(eq=False)
class Job:
    """A request with one sequence, and everything that has happened to it."""

    id: int
    arrival: int
    prompt: int
    output: int
    estimate: int
    stored: int = 0
    generated: int = 0
    ever_stored: int = 0
    is_prefilling: bool = False
    is_retired: bool = False
    admitted_at: int | None = None
    token_times: list[int] = field(default_factory=list)
    preemptions: int = 0
    recomputed: int = 0
    bucket: str = "unfinished"

    @property
    def known(self) -> int:
        return self.prompt + self.generated

    @property
    def final(self) -> int:
        return self.prompt + self.output - 1


@dataclass
class Claim:
    """What a job holds: ``blocks`` of the pool, of which it asked for ``asked`` slots."""

    blocks: int
    asked: int
    start: int = 0


class Memory(Protocol):
    """A pool and a policy in one. ``floor``: blocks that must stay free."""

    num_blocks: int
    block_size: int
    claims: dict[Job, Claim]
    copied_blocks: int

    def reserve(self, job: Job, num_tokens: int, floor: int = 0) -> bool: ...

    def drop(self, job: Job) -> None: ...

    def empty_twin(self) -> Memory: ...

    def largest_run(self) -> int | None: ...


def num_held(memory: Memory) -> int:
    return sum(claim.blocks for claim in memory.claims.values())


@dataclass
class CountedBlocks:
    """Blocks on demand. Where they are does not matter, so they are only counted."""

    num_blocks: int
    block_size: int
    claims: dict[Job, Claim] = field(default_factory=dict)
    copied_blocks: int = 0

    def reserve(self, job: Job, num_tokens: int, floor: int = 0) -> bool:
        blocks = (job.stored + num_tokens + self.block_size - 1) // self.block_size
        more = blocks - (self.claims[job].blocks if job in self.claims else 0)
        if more > max(self.num_blocks - num_held(self) - floor, 0):
            return False
        if more > 0:
            self.claims[job] = Claim(blocks, blocks * self.block_size)
        return True

    def drop(self, job: Job) -> None:
        self.claims.pop(job, None)

    def empty_twin(self) -> CountedBlocks:
        return CountedBlocks(self.num_blocks, self.block_size)

    def largest_run(self) -> int | None:
        return None


@dataclass
class Runs:
    """One adjacent run a job, found by looking at a map of all blocks."""

    num_blocks: int
    block_size: int
    reservation: str
    placement: str
    max_model_len: int
    claims: dict[Job, Claim] = field(default_factory=dict)
    copied_blocks: int = 0

    def reserve(self, job: Job, num_tokens: int, floor: int = 0) -> bool:
        needed = job.stored + num_tokens
        claim = self.claims.get(job)
        if claim is not None and needed <= claim.asked:
            return True
        asked = self._wish(job, needed)
        blocks = -(-asked // self.block_size)
        room = self.num_blocks - num_held(self) - floor
        if claim is not None:
            grown = self._in_place(claim, blocks)
            if grown is not None and grown - claim.blocks <= room:
                self.claims[job] = Claim(grown, asked, claim.start)
                return True
        place = self._find(blocks)
        if place is None or place[1] > room:
            return False
        if claim is not None:
            self.copied_blocks += -(-job.stored // self.block_size)
        self.claims[job] = Claim(place[1], asked, place[0])
        return True

    def drop(self, job: Job) -> None:
        self.claims.pop(job, None)

    def empty_twin(self) -> Runs:
        return Runs(self.num_blocks, self.block_size, self.reservation, self.placement, self.max_model_len)

    def largest_run(self) -> int | None:
        return max((size for _, size in self._holes()), default=0)

    def _wish(self, job: Job, needed: int) -> int:
        if self.reservation == "max":
            return max(self.max_model_len, needed)
        if self.reservation == "oracle":
            return max(job.final, needed)
        part = 1
        while part < job.estimate or job.prompt + part < needed:
            part *= 2
        return max(min(job.prompt + part, self.max_model_len), needed)

    def _map(self) -> list[bool]:
        taken = [False] * self.num_blocks
        for claim in self.claims.values():
            for block in range(claim.start, claim.start + claim.blocks):
                assert not taken[block], "two jobs hold one block"
                taken[block] = True
        return taken

    def _holes(self) -> list[tuple[int, int]]:
        """Free runs that a job could get, as (start, size)."""
        taken = self._map()
        if self.placement == "buddy":
            chunks = []
            for start, size in roots(self.num_blocks):
                chunks += free_chunks(taken, start, size)
            return chunks
        holes = []
        for start in range(self.num_blocks):
            if not taken[start] and (start == 0 or taken[start - 1]):
                size = 1
                while start + size < self.num_blocks and not taken[start + size]:
                    size += 1
                holes.append((start, size))
        return holes

    def _find(self, blocks: int) -> tuple[int, int] | None:
        """Return (start, size) of the run that ``blocks`` would get."""
        size = next_power(blocks) if self.placement == "buddy" else blocks
        fitting = [hole for hole in self._holes() if hole[1] >= size]
        if not fitting:
            return None
        if self.placement == "first_fit":
            return min(fitting)[0], size
        return min((length, start) for start, length in fitting)[1], size

    def _in_place(self, claim: Claim, blocks: int) -> int | None:
        """Return the size to which a claim can grow where it is, at least ``blocks``."""
        if blocks <= claim.blocks:
            return claim.blocks
        size = blocks
        if self.placement == "buddy":
            size = next_power(blocks)
            root, root_size = next(r for r in roots(self.num_blocks) if r[0] <= claim.start < r[0] + r[1])
            if size > root_size or (claim.start - root) % size:
                return None
        behind = self._map()[claim.start + claim.blocks : claim.start + size]
        return size if len(behind) == size - claim.blocks and not any(behind) else None


def next_power(number: int) -> int:
    power = 1
    while power < number:
        power *= 2
    return power


def roots(num_blocks: int) -> list[tuple[int, int]]:
    """Return the binary decomposition of a pool, largest first, as (start, size)."""
    result = []
    start = 0
    while start < num_blocks:
        size = 1
        while size * 2 <= num_blocks - start:
            size *= 2
        result.append((start, size))
        start += size
    return result


def free_chunks(taken: list[bool], start: int, size: int) -> list[tuple[int, int]]:
    """Return the largest aligned free chunks inside a chunk."""
    part = taken[start : start + size]
    if not any(part):
        return [(start, size)]
    if size == 1:
        return []
    half = size // 2
    return free_chunks(taken, start, half) + free_chunks(taken, start + half, half)
