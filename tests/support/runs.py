"""Runs that are built by hand, without an experiment file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Listing
from dataclasses import dataclass, field
from typing import Any

from pagesim.account import Account
from pagesim.allocators.base import Allocator
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.backend import Backend, FakeBackend
from pagesim.blocks import BlockPool
from pagesim.engine import Engine, Source
from pagesim.journal import Journal
from pagesim.recorder import Recorder
from pagesim.schedulers import victims
from pagesim.schedulers.base import Limits, Scheduler
from pagesim.schedulers.chunked import Chunked
from pagesim.schedulers.mixed import Mixed
from pagesim.schedulers.prefill_first import PrefillFirst
from pagesim.schedulers.static import Static
from pagesim.sequence import Request

Maker = Callable[[BlockPool, int], Allocator]
"""Makes an allocator from a pool and ``max_model_len``."""

SCHEDULERS: dict[str, type[Scheduler]] = {
    "chunked": Chunked,
    "mixed": Mixed,
    "prefill_first": PrefillFirst,
    "static": Static,
}
VICTIMS: dict[str, type[Any]] = {
    "youngest": victims.Youngest,
    "least_computed": victims.LeastComputed,
    "fewest_outputs": victims.FewestOutputs,
    "longest_remaining": victims.LongestRemaining,
}


def contiguous(reserve: Any, placement: str) -> Maker:
    """Return what makes a contiguous allocator."""
    return lambda pool, max_model_len: Contiguous(pool, max_model_len, reserve, placement)


ALLOCATORS: dict[str, Maker] = {
    "paged": lambda pool, _: Paged(pool),
    "copy_on_write": lambda pool, _: CopyOnWrite(pool),
    "ideal": lambda pool, _: Ideal(pool),
    "swapping": lambda pool, _: Swapping(pool),
    **{
        f"{reserve}-{placement}": contiguous(reserve, placement)
        for reserve in ("max", "pow2", "oracle")
        for placement in ("buddy", "first_fit", "best_fit")
    },
}


class ListSource:
    """Requests that are known beforehand, and what follows from their ends."""

    def __init__(
        self, requests: Listing[Request], after: Callable[[Request, int], Request | None] = lambda request, now: None
    ) -> None:
        self.requests = list(requests)
        self._after = after

    def initial(self) -> Iterator[Request]:
        """Yield them in their order."""
        yield from self.requests

    def after(self, request: Request, now: int) -> Request | None:
        """Ask the function that was given."""
        return self._after(request, now)


@dataclass
class Server:
    """A pool, an allocator and a scheduler, ready to be driven by hand or by ``run``."""

    num_blocks: int
    block_size: int
    allocator: str | Maker = "paged"
    scheduler: str | type[Scheduler] = "mixed"
    victim: str | type[Any] = "youngest"
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 4096
    max_model_len: int = 2048
    watermark: int = 0
    num_slots: int | None = None
    host_blocks: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Build everything."""
        self.alloc = self.make_allocator()
        self.pool = self.alloc.pool
        self.journal = Journal()
        slots = self.num_blocks * self.block_size if self.num_slots is None else self.num_slots
        self.account = Account(self.pool, slots)
        scheduler = SCHEDULERS[self.scheduler] if isinstance(self.scheduler, str) else self.scheduler
        self.sched = scheduler(
            self.alloc,
            self.account,
            self.journal,
            Limits(self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len),
            (VICTIMS[self.victim] if isinstance(self.victim, str) else self.victim)(),
            twin=self.make_allocator,
            **self.options,
        )

    def make_allocator(self) -> Allocator:
        """Return the allocator over an empty pool."""
        host = BlockPool(self.host_blocks, self.block_size) if self.host_blocks else None
        pool = BlockPool(self.num_blocks, self.block_size, watermark=self.watermark, host=host)
        maker = ALLOCATORS[self.allocator] if isinstance(self.allocator, str) else self.allocator
        return maker(pool, self.max_model_len)

    def run(
        self,
        requests: Listing[Request],
        *,
        backend: Backend | None = None,
        after: Callable[[Request, int], Request | None] = lambda request, now: None,
        horizon: int | None = None,
        window: tuple[int, int] | None = None,
        num_bins: int = 1000,
        first_bin: int = Recorder.FIRST_BIN,
        truncate: bool = False,
        fast_forward: bool = True,
        source: Source | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Recorder:
        """Serve ``requests`` and return what was recorded."""

        for request in requests:
            request.oracle = True
        self.recorder = Recorder(
            self.account, self.journal, self.sched, self.alloc, num_bins=num_bins, window=window, first_bin=first_bin
        )
        self.engine = Engine(
            self.sched,
            backend or FakeBackend(1000),
            source or ListSource(requests, after),
            self.recorder,
            max_model_len=self.max_model_len,
            truncate=truncate,
            horizon=horizon,
            fast_forward=fast_forward,
            watch=watch,
        )
        self.engine.run()
        return self.recorder
