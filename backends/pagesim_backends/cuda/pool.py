"""The KV pool in device memory and the host pool in pinned memory; performs moves between them.

Two layouts, both with the head and its elements last:

    block-major   [block, layer, K/V, token, head, dim]    a block is one piece: one transfer swaps or copies it
    layer-major   [K/V, layer, slot, head, dim]            a layer's slots are adjacent: for contiguous policies, and
                                                           for blocks so small that block-major would scatter each
                                                           layer's reads over the whole pool

One spare block past the end takes the writes of padded tokens. A swap-out gathers blocks into a staging buffer
by a kernel, so that its transfer runs beside the step that follows, on its own stream, while its blocks are
written anew. The buffer has two halves: one crosses the host link while the other is filled. A swap-in goes
straight into the blocks where a block is one piece, else through the same buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import cupy
import numpy as np
import numpy.typing as npt

from pagesim.errors import BackendError
from pagesim.units import format_bytes
from pagesim_backends.cache_shape import CacheShape
from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.kernels import PoolView
from pagesim_backends.cuda.launch import launch, pack
from pagesim_backends.cuda.transfer import copy_pieces
from pagesim_backends.errors import UnavailableError
from pagesim_backends.moves import Batch

Array = Any  # cupy.ndarray
Stream = Any  # cupy.cuda.Stream
Blocks = npt.NDArray[np.int32]
Work = Callable[[], object]
"""Enqueues something."""

ELEMENT_BYTES: Final = 2
STAGING_BYTES: Final = 256 * 2**20
BLOCK_MAJOR_FROM: Final = 8 * 2**10
"""Bytes of one layer's K of a block from which the block-major layout is taken."""
DMA_FROM: Final = 32 * 2**10
"""Bytes of the shortest host run from which the copy engines are used, or, four times as many, of the average one. What
is shorter goes by a small kernel: the engines bring pieces of 16 KiB to the device at 4 GB/s."""
LINK_BLOCKS_OUT: Final = 4
LINK_BLOCKS_IN: Final = 8
"""Thread blocks of that kernel: enough for the host link (48 GB/s on an H200), few enough to leave attention the
memory: 16 of them, all storing to the host, made it four times slower."""
_COPY_DEPTH: Final = 8  # loads that a thread of move_blocks has in flight


@dataclass(frozen=True)
class Layout:
    """Distances in a pool, in elements.

    Attributes:
        block, token, head: from one to the next, within K or V of a layer.
        layer: from a layer to the next.
        value: from K to V.
        piece: elements of a piece: what lies adjacent of one block.
        piece_stride: from a block's piece to its next.
        num_pieces: of a block.
    """

    block: int
    token: int
    head: int
    layer: int
    value: int
    piece: int
    piece_stride: int
    num_pieces: int

    @classmethod
    def chosen(cls, shape: CacheShape, num_blocks: int, *, contiguous: bool) -> Layout:
        """Return the layout that serves best: block-major, unless tables are runs or the blocks are tiny."""
        part = shape.elements_per_block * ELEMENT_BYTES // (2 * shape.num_layers)
        return cls.of(shape, num_blocks, block_major=not contiguous and part >= BLOCK_MAJOR_FROM)

    @classmethod
    def of(cls, shape: CacheShape, num_blocks: int, *, block_major: bool) -> Layout:
        """Return the layout of a pool of ``num_blocks`` blocks."""
        token = shape.num_kv_heads * shape.head_dim
        part = shape.block_size * token  # K of a block in one layer
        if block_major:
            whole = 2 * shape.num_layers * part
            return cls(whole, token, shape.head_dim, 2 * part, part, whole, 0, 1)
        plane = num_blocks * part
        value = shape.num_layers * plane
        return cls(part, token, shape.head_dim, plane, value, part, plane, 2 * shape.num_layers)

    @property
    def block_major(self) -> bool:
        """Whether a block is one piece."""
        return self.num_pieces == 1

    def view(self, pool: int, layer: int, block_size: int) -> PoolView:
        """Return one layer of a pool at a device address, as kernels see it."""
        key = pool + layer * self.layer * ELEMENT_BYTES
        return PoolView(key, key + self.value * ELEMENT_BYTES, self.block, self.token, self.head, block_size)


@dataclass(frozen=True)
class Half:
    """Half of the staging buffer.

    Attributes:
        first: its first block.
        free: recorded when what it held has been taken.
        full: recorded when it has been filled.
    """

    first: int
    free: Any = field(default_factory=lambda: cupy.cuda.Event(disable_timing=True))
    full: Any = field(default_factory=lambda: cupy.cuda.Event(disable_timing=True))

    def places(self, count: int) -> Blocks:
        """Return its first ``count`` blocks."""
        return np.arange(self.first, self.first + count, dtype=np.int32)


class Pool:
    """Device and host memory of one row of an experiment, allocated once.

    Args:
        shape: sizes.
        contiguous: whether a sequence is read as one run of slots.
        bf16: type of the elements.
        stream: on which the step runs.

    Raises UnavailableError where device memory or pinned host memory does not suffice, before any work.
    """

    def __init__(self, shape: CacheShape, *, contiguous: bool, bf16: bool, stream: Stream) -> None:
        self.shape = shape
        self.stream = stream
        self.link = cupy.cuda.Stream(non_blocking=True)
        self.block_bytes = shape.elements_per_block * ELEMENT_BYTES
        num_blocks = shape.num_blocks + 1  # the spare one
        self.spare_slot = shape.num_slots
        self.layout = Layout.chosen(shape, num_blocks, contiguous=contiguous)
        self.block_major = self.layout.block_major
        self._data = _allocate_device(num_blocks * self.block_bytes, shape.num_slots)
        self._staging: Array = None
        self._host: Any = None
        if shape.num_host_blocks:
            self._staging = _allocate_device(2 * self._room() * self.block_bytes, shape.num_slots)
            self._host = _pin(shape.num_host_blocks * self.block_bytes)
        self._halves = (Half(0), Half(self._room()))
        self._reached = cupy.cuda.Event(disable_timing=True)
        self._move = kernels.load(kernels.cache_variant("move_blocks", bf16), cupy.cuda.Device().id)

    def view(self, layer: int) -> PoolView:
        """Return one layer as kernels see it."""
        return self.layout.view(self._data.data.ptr, layer, self.shape.block_size)

    def fill(self, bits: int) -> None:
        """Set every element of the device pool, the spare block included: for tests."""
        self._data.view(np.uint16).fill(bits)

    def repeat(self, values: npt.NDArray[np.uint8]) -> None:
        """Set the device pool to repetitions of some bytes: for measurements, as zeros may be moved faster."""
        data, count = self._data, min(len(values), self._data.nbytes)
        data[:count].set(values[:count])
        while count < data.nbytes:
            more = min(count, data.nbytes - count)
            data[count : count + more] = data[:more]
            count += more
        cupy.cuda.Device().synchronize()

    def perform(self, batch: Batch) -> None:
        """Enqueue one batch on the step's stream. A swap-out's transfer goes on beside what follows."""
        for enqueue in self.prepare(batch):
            enqueue()

    def prepare(self, batch: Batch) -> list[Work]:
        """Return what ``perform`` enqueues, in order, with the lists of blocks on their way to the device already.

        So that no device event around it counts the host's time to make and send them. What one batch's work
        overwrites on the way may be another's: prepare in the order of the plan.
        """
        if batch.kind == "copy":
            return list(self._copy(batch))
        if self._host is None:
            raise BackendError("a swap in a run without a host pool; set memory.host_kv_cache")
        return list(self._swap_out(batch.blocks) if batch.kind == "swap_out" else self._swap_in(batch.blocks))

    def synchronize(self) -> None:
        """Wait until every transfer has ended."""
        self.stream.synchronize()
        self.link.synchronize()

    def _copy(self, batch: Batch) -> Iterator[Work]:
        blocks, layout = batch.blocks, self.layout
        if not batch.overlaps:
            yield self._launch(self._data, self._data, blocks, layout, layout, self.stream)
            return
        # As memmove: in pieces through a buffer, from the end that is not overwritten first.
        room = self._room()
        half, buffer = self._halves[0], self._staging
        if buffer is None:
            half, buffer = Half(0), _allocate_device(min(len(blocks), room) * self.block_bytes, self.shape.num_slots)
        packed = self._packed()
        upwards = blocks[0, 1] > blocks[0, 0]
        ordered = blocks[::-1] if upwards else blocks
        yield partial(self.stream.wait_event, half.free)
        for first in range(0, len(ordered), room):
            part = ordered[first : first + room]
            places = half.places(len(part))
            yield self._gather(np.stack((part[:, 0], places), axis=1), buffer, packed, self.stream)
            yield self._scatter(np.stack((places, part[:, 1]), axis=1), buffer, packed, self.stream)
        yield partial(half.free.record, self.stream)

    def _swap_out(self, blocks: Blocks) -> Iterator[Work]:
        for half, part in self._parts(blocks[np.argsort(blocks[:, 1], kind="stable")]):
            places = half.places(len(part))
            yield partial(self.stream.wait_event, half.free)
            yield self._gather(np.stack((part[:, 0], places), axis=1), self._staging, self._packed(), self.stream)
            yield partial(half.full.record, self.stream)
            yield partial(self.link.wait_event, half.full)
            yield self._cross(self._staging, places, part[:, 1], to_host=True)
            yield partial(half.free.record, self.link)

    def _swap_in(self, blocks: Blocks) -> Iterator[Work]:
        parts = self._parts(blocks[np.argsort(blocks[:, 0], kind="stable")])
        if self.block_major:  # straight into the blocks, once whatever used them before is done
            yield partial(self._reached.record, self.stream)
            yield partial(self.link.wait_event, self._reached)
            for _, part in parts:
                yield self._cross(self._data, part[:, 1], part[:, 0], to_host=False)
            yield partial(self._reached.record, self.link)
            yield partial(self.stream.wait_event, self._reached)
            return
        for half, part in parts:
            places = half.places(len(part))
            yield partial(self.link.wait_event, half.free)
            yield self._cross(self._staging, places, part[:, 0], to_host=False)
            yield partial(half.full.record, self.link)
            yield partial(self.stream.wait_event, half.full)
            yield self._scatter(np.stack((places, part[:, 1]), axis=1), self._staging, self._packed(), self.stream)
            yield partial(half.free.record, self.stream)

    def _parts(self, blocks: Blocks) -> Iterator[tuple[Half, Blocks]]:
        """Yield as many blocks as half of the staging buffer holds, and the half, in turns."""
        room = self._room()
        for first in range(0, len(blocks), room):
            yield self._halves[0], blocks[first : first + room]
            self._halves = self._halves[::-1]

    def _room(self) -> int:
        """Return the blocks of half of the staging buffer."""
        return max(STAGING_BYTES // 2 // self.block_bytes, 1)

    def _packed(self) -> Layout:
        """Return the layout of the staging buffer and of the host pool: every block is one piece."""
        return Layout.of(self.shape, 1, block_major=True)

    def _cross(self, on_device: Array, places: Blocks, host_blocks: Blocks, *, to_host: bool) -> Work:
        """Return the move of whole blocks over the host link, on its stream.

        Args:
            on_device: memory that holds each block in one piece: the staging buffer or a block-major pool.
            places, host_blocks: the blocks' numbers there and on the host; those ascend.
            to_host: the direction.
        """
        size = np.uint64(self.block_bytes)
        apart = np.flatnonzero((np.diff(places) != 1) | (np.diff(host_blocks) != 1)) + 1
        first = np.concatenate(([0], apart))
        count = np.diff(np.concatenate((first, [len(places)]))).astype(np.uint64)
        runs = count * size
        if runs.min() >= DMA_FROM or runs.mean() >= 4 * DMA_FROM:
            here = np.uint64(on_device.data.ptr) + places[first].astype(np.uint64) * size
            there = np.uint64(self._host.ptr) + host_blocks[first].astype(np.uint64) * size
            targets, sources = (there, here) if to_host else (here, there)
            return partial(copy_pieces, targets, sources, runs, self.link, to_host=to_host)
        host, packed = self._host.ptr, self._packed()
        if to_host:
            order = np.stack((places, host_blocks), axis=1)
            return self._launch(on_device, host, order, packed, packed, self.link, grid=LINK_BLOCKS_OUT)
        order = np.stack((host_blocks, places), axis=1)
        return self._launch(host, on_device, order, packed, packed, self.link, grid=LINK_BLOCKS_IN)

    def _gather(self, blocks: Blocks, buffer: Array, packed: Layout, stream: Stream) -> Work:
        return self._launch(self._data, buffer, blocks, self.layout, packed, stream)

    def _scatter(self, blocks: Blocks, buffer: Array, packed: Layout, stream: Stream) -> Work:
        return self._launch(buffer, self._data, blocks, packed, self.layout, stream)

    def _launch(
        self,
        source: Any,
        target: Any,
        blocks: Blocks,
        source_layout: Layout,
        target_layout: Layout,
        stream: Stream,
        *,
        grid: int | None = None,
    ) -> Work:
        """Return a launch of ``move_blocks``, its list of blocks sent; pieces are those of the finer layout."""
        finer = min(source_layout, target_layout, key=lambda layout: layout.piece)
        piece_bytes = finer.piece * ELEMENT_BYTES
        with stream:
            on_device = cupy.asarray(np.ascontiguousarray(blocks))
        stretch = 16
        while stretch < 256 and stretch * 16 < piece_bytes:
            stretch *= 2
        params = pack(
            kernels.MOVE_PARAMS,
            source=source if isinstance(source, int) else source.data.ptr,
            target=target if isinstance(target, int) else target.data.ptr,
            blocks=on_device.data.ptr,
            source_stride=source_layout.block * ELEMENT_BYTES,
            target_stride=target_layout.block * ELEMENT_BYTES,
            source_piece_stride=self._piece_stride(source_layout, finer),
            target_piece_stride=self._piece_stride(target_layout, finer),
            piece_bytes=piece_bytes,
            num_blocks=len(blocks),
            num_pieces=finer.num_pieces,
            stretch=stretch,
        )
        stretches = len(blocks) * finer.num_pieces * -(-piece_bytes // (16 * stretch))
        tiles = -(-stretches // (256 // stretch * _COPY_DEPTH))

        def enqueue(kept: object = (on_device, source, target)) -> None:  # a buffer of this move lives as long
            launch(self._move, (min(tiles, grid or 2**30), 1), 256, params, stream)

        return enqueue

    @staticmethod
    def _piece_stride(layout: Layout, finer: Layout) -> int:
        """Return the bytes between pieces; in a block that is one piece they lie one after the other."""
        return (layout.piece_stride if layout.num_pieces == finer.num_pieces else finer.piece) * ELEMENT_BYTES


def _allocate_device(num_bytes: int, num_slots: int) -> Array:
    free, _ = cupy.cuda.runtime.memGetInfo()
    if num_bytes <= free:
        try:
            return cupy.ndarray((num_bytes,), np.uint8, memptr=cupy.cuda.MemoryPointer(cupy.cuda.Memory(num_bytes), 0))
        except cupy.cuda.runtime.CUDARuntimeError:
            pass
    raise UnavailableError(
        f"a KV pool of {num_slots} slots needs {format_bytes(num_bytes)} of device memory and {format_bytes(free)} are "
        "free; lower memory.kv_cache"
    )


def _pin(num_bytes: int) -> Any:
    try:
        return cupy.cuda.PinnedMemoryPointer(cupy.cuda.PinnedMemory(num_bytes), 0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnavailableError(
            f"{format_bytes(num_bytes)} of host memory cannot be pinned ({error}); lower memory.host_kv_cache"
        ) from None
