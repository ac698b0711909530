"""The seam between deciding and doing: a scheduler makes a Step, a backend says how long it takes.

A cost model computes the duration; a GPU backend performs the step and measures it. The engine
cannot tell the difference.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Listing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from pagesim.blocks import BlockOps
from pagesim.promises import says
from pagesim.sequence import Sequence
from pagesim.units import TICKS_PER_SECOND

if TYPE_CHECKING:
    from pagesim.catalog import DeviceSpec, ModelSpec


class Chunk(NamedTuple):
    """Part of a prompt that a step prefills, after the ``sequence.num_stored`` tokens already there.

    Attributes:
        sequence: whose tokens.
        num_tokens: how many are computed and stored in this step.
        num_recomputed: how many of them had been stored before a preemption.
    """

    sequence: Sequence
    num_tokens: int
    num_recomputed: int = 0


@dataclass(slots=True)
class Step:
    """One iteration: the plan of block moves, then the tokens that are computed.

    The counts let a cost model price a step without looking at each sequence.

    Attributes:
        ops: block moves in order, before any write.
        prefills: chunks of prompts.
        decodes: sequences that store and generate one token each; only valid until ``commit``.
        num_decodes: how many.
        context_tokens: stored tokens that the decodes attend to, the new one included, summed.
        table_entries: blocks in the tables of all sequences of the step, summed.
        padding_tokens: computed for nothing, where a policy pads its batch.
        wake_at: where a policy waits on purpose: the tick at which to ask it again.
    """

    ops: BlockOps = field(default_factory=BlockOps)
    prefills: list[Chunk] = field(default_factory=list)
    decodes: Collection[Sequence] = ()
    num_decodes: int = 0
    context_tokens: int = 0
    table_entries: int = 0
    padding_tokens: int = 0
    wake_at: int | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step, without padding."""
        return self.num_decodes + sum(chunk.num_tokens for chunk in self.prefills)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute and nothing to move."""
        return not (self.num_decodes or self.prefills or self.ops)


class StepResult(NamedTuple):
    """How long a step took, and where the time went. All in ticks; the parts sum to the duration.

    Attributes:
        duration: at least one tick.
        weights: reading the weights, or computing with them where that takes longer.
        attention: reading the context and the arithmetic on it.
        prefill: what prompts add.
        recompute: the share of it that had been computed before a preemption.
        copies: copying blocks on the device.
        swaps: moving blocks over the host link, as far as it delays the step.
        overhead: the constant of an iteration and the host's work.
    """

    duration: int
    weights: int = 0
    attention: int = 0
    prefill: int = 0
    recompute: int = 0
    copies: int = 0
    swaps: int = 0
    overhead: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """What a backend is built for: one row of an experiment.

    A backend's class is called with it and the options of the experiment file, unless it has a
    class method ``from_machine`` that takes the same.

    Attributes:
        model, device: from the catalog.
        tensor_parallel: GPUs that share each layer.
        dtype: of weights and KV cache: float16, bfloat16 or float32.
        dtype_bytes: of one number.
        kv_bytes_per_token: on each GPU.
        block_size: slots of a block.
        contiguous: whether tables are runs of adjacent blocks, so that no table is read.
        num_blocks, num_host_blocks: of the pool and of the host's.
        max_num_seqs, max_model_len: bounds of a batch and of a sequence.
        seed: of the run.
    """

    model: ModelSpec
    device: DeviceSpec
    tensor_parallel: int
    dtype: str
    dtype_bytes: int
    kv_bytes_per_token: int
    block_size: int
    contiguous: bool
    num_blocks: int
    num_host_blocks: int
    max_num_seqs: int
    max_model_len: int
    seed: int


class Backend(Protocol):
    """Executes steps. It knows no scheduler and no clock."""

    def execute(self, step: Step) -> StepResult:
        """Perform (or price) one step. The duration is at least one tick."""
        ...


class Tariff(Protocol):
    """What steps cost, from their counts alone: all in ticks, and exactly what ``execute`` would answer.

    A step without swaps and padding takes the sum of ``decodes``, ``context_token`` for each of its context tokens,
    ``table_entry`` for each table entry, ``prompts`` if it has chunks, and ``copies`` if it copies blocks.

    Attributes:
        context_token: attention to one token of a decode's context.
        table_entry: the host's work on one entry of a block table (overhead).
    """

    context_token: int
    table_entry: int

    def decodes(self, num_decodes: int) -> tuple[int, int]:
        """Return (weights, overhead) of a step with ``num_decodes`` decodes, before contexts and tables.

        Together at least one tick. 0 decodes: of a step that has chunks of prompts only.
        """
        ...

    def prompts(self, chunks: Listing[tuple[int, int, int]], num_decodes: int) -> tuple[int, int, int]:
        """Return (prefill, recompute, overhead): what chunks add to a step with ``num_decodes`` decodes.

        Args:
            chunks: stored tokens before it, tokens of it, how many of those are computed again.
            num_decodes: of the same step.
        """
        ...

    def copies(self, num_blocks: int) -> int:
        """Return what copying ``num_blocks`` blocks, in one step, adds."""
        ...


@runtime_checkable
class Priced(Protocol):
    """A backend that can price many steps at once. A subclass that executes in another way says ``tariff`` anew."""

    def tariff(self) -> Tariff | None:
        """Return what steps cost; None where counts do not tell."""
        ...


def tariff_of(backend: Backend) -> Tariff | None:
    """Return the tariff of ``backend``; None if it has none, or if a subclass executes or prices in another way."""
    if not isinstance(backend, Priced) or not says(backend, "tariff", "execute", "decodes", "prompts", "copies"):
        return None
    return backend.tariff()


class FakeBackend:
    """A backend for tests: every step takes the same time, and the steps are kept.

    Args:
        duration: ticks of a step.
        keep: whether ``steps`` records what was asked: (prefill chunks as (request, tokens), decodes).
    """

    def __init__(self, duration: int = TICKS_PER_SECOND, *, keep: bool = True) -> None:
        self.duration = duration
        self.keep = keep
        self.steps: list[tuple[Listing[tuple[int, int]], Listing[int], BlockOps]] = []

    def execute(self, step: Step) -> StepResult:
        """Take ``duration`` ticks."""
        if self.keep:
            prefills = [(chunk.sequence.request.id, chunk.num_tokens) for chunk in step.prefills]
            decodes = [sequence.request.id for sequence in step.decodes]
            self.steps.append((prefills, decodes, BlockOps(step.ops)))
        return StepResult(self.duration, overhead=self.duration)
