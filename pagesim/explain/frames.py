"""What one step looked like, as plain data: frames do not change when the run goes on."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass
from typing import Literal

from pagesim.backend import StepResult
from pagesim.blocks import Op
from pagesim.poolmap import SlotMap

Kind = Literal[
    "arrives",
    "refused",
    "admitted",
    "fork",
    "beam",
    "grows",
    "copied",
    "preempted",
    "swapped_out",
    "swapped_in",
    "waits",
    "finished",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a request.

    Attributes:
        kind: what.
        request: to whom.
        time: tick.
        text: the sentence.
        by: for a preemption: the request that needed the memory.
    """

    kind: Kind
    request: int
    time: int
    text: str
    by: int | None = None


@dataclass(frozen=True, slots=True)
class SequenceView:
    """A sequence that holds memory, or that is on the host.

    Attributes:
        name: ``3``, or ``3.1`` where its request has several sequences.
        request, index: which one it is.
        prompt, output: its length in tokens; ``generated``: of its output so far.
        stored: tokens whose keys and values are stored; ``writes``: that this step stores.
        final: stored tokens at its end.
        asked: slots that the policy asked for.
        table: logical block -> physical block; ``host``: the same on the host.
        sharers: references to each block of its table.
        retired: whether it has ended and its memory is still held.
    """

    name: str
    request: int
    index: int
    prompt: int
    output: int
    generated: int
    stored: int
    writes: int
    final: int
    asked: int
    table: Listing[int]
    host: Listing[int]
    sharers: Listing[int]
    retired: bool


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request in a queue."""

    id: int
    prompt: int
    output: int
    num_sequences: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One step, after it was scheduled and before its tokens are stored.

    Attributes:
        number: iteration, from 0.
        start: tick at which it begins; ``result`` says how long it takes.
        waiting, running, swapped: the queues, in order.
        sequences: all that hold memory on the device or on the host.
        prefills: (sequence, tokens, of them computed before); decodes: names.
        ops: block moves, in order.
        events: what happened since the last frame, in order.
        slots: what stands in every slot; owners are places in ``sequences``.
        num_blocks, num_held: of the pool. ``num_host``, ``num_host_held``: of the host's.
    """

    number: int
    start: int
    result: StepResult
    waiting: tuple[RequestView, ...]
    running: tuple[RequestView, ...]
    swapped: tuple[RequestView, ...]
    sequences: tuple[SequenceView, ...]
    prefills: tuple[tuple[str, int, int], ...]
    decodes: tuple[str, ...]
    ops: tuple[Op, ...]
    events: tuple[Event, ...]
    slots: SlotMap
    num_blocks: int
    num_held: int
    num_host: int
    num_host_held: int


@dataclass(frozen=True, slots=True)
class Walk:
    """The frames of one allocator's run.

    Attributes:
        name: of the row; ``policy``: its class.
        block_size: slots of a block.
        num_slots: of the device, those outside whole blocks included.
        is_contiguous: whether tables are runs of adjacent blocks.
        frames: of the steps that were looked at.
        ending: what happened after the last frame.
        num_steps: of the run as far as it was followed; ``end``: the tick at which that stopped.
        is_complete: whether the run was followed to its end.
        path: how a run in which nobody looks takes the same steps (see ``Engine.path``).
    """

    name: str
    policy: str
    block_size: int
    num_slots: int
    is_contiguous: bool
    frames: tuple[Frame, ...]
    ending: tuple[Event, ...]
    num_steps: int
    end: int
    is_complete: bool
    path: str
