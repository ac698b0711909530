"""Launches the attention kernels: plans to device buffers, sizes to parameters."""

from __future__ import annotations

import math
from typing import Any, Protocol

import cupy

from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.kernels import DECODE_PARAMS, PREFILL_PARAMS, Addressing, Form, PoolView
from pagesim_backends.cuda.launch import launch, pack
from pagesim_backends.cuda.plan import MAX_SPLITS, Heads
from pagesim_backends.cuda.planner import Planner
from pagesim_backends.errors import UnavailableError


class Memory(Protocol):
    """Device buffers by name; see ``backend.Buffers``."""

    def reserve(self, name: str, num_bytes: int, *, zero: bool = False) -> int:
        """Return the address of a buffer of at least so many bytes."""
        ...


class DecodeBuffers:
    """Room for the partial results of split sequences.

    Args:
        memory: where the buffers are.
        head_dim: elements of a head.
    """

    def __init__(self, memory: Memory, head_dim: int) -> None:
        self._memory = memory
        self._head_dim = head_dim
        self.output = self.state = self.arrivals = 0

    def reserve(self, num_slots: int, item_heads: int) -> None:
        """Make room for ``num_slots`` rows of ``item_heads`` heads."""
        rows = num_slots * item_heads
        self.output = self._memory.reserve("partial_output", rows * self._head_dim * 4)
        self.state = self._memory.reserve("partial_state", rows * 8)
        self.arrivals = self._memory.reserve("arrivals", num_slots * 4, zero=True)


class Decode:
    """Decode attention for one model on the current device.

    Args:
        num_query_heads, num_kv_heads, head_dim: of the model.
        bf16: bf16 elements, else fp16.
        addressing: how slots are found.

    Raises UnavailableError on sizes without a kernel.
    """

    def __init__(
        self, num_query_heads: int, num_kv_heads: int, head_dim: int, *, bf16: bool, addressing: Addressing
    ) -> None:
        check_sizes(num_query_heads, num_kv_heads, head_dim)
        self.heads = Heads.of(num_query_heads, num_kv_heads, head_dim)
        self.num_query_heads = num_query_heads
        self.head_dim = head_dim
        self.bf16 = bf16
        self.addressing = addressing
        self.device = cupy.cuda.Device()
        attributes = self.device.attributes
        self.planner = Planner(
            self.heads,
            head_dim,
            int(attributes["MultiProcessorCount"]),
            max_shared_bytes=int(attributes["MaxSharedMemoryPerBlockOptin"]),
        )
        self.scale = math.log2(math.e) / math.sqrt(head_dim)
        self._kernels: dict[Form, Any] = {}

    def kernel(self, form: Form) -> Any:
        """Return the compiled kernel for a form, ready to launch."""
        if form not in self._kernels:
            variant = kernels.decode_variant(self.head_dim, self.bf16, self.heads.group, form, self.addressing)
            kernel = kernels.load(variant, self.device.id)
            allow_shared(kernel, self.shared_bytes(form))
            self._kernels[form] = kernel
        return self._kernels[form]

    def shared_bytes(self, form: Form) -> int:
        """Return the dynamic shared memory of a thread block."""
        return kernels.decode_shared_bytes(form.num_warps, self.heads.per_item, self.head_dim, MAX_SPLITS)

    def launch(
        self,
        form: Form,
        items: int,
        num_items: int,
        buffers: DecodeBuffers,
        pool: PoolView,
        query: int,
        output: int,
        block_tables: int,
        stream: Any,
        *,
        early: bool = True,
    ) -> None:
        """Enqueue the attention of one layer; addresses are of the device.

        Args:
            form: of the plan.
            items: work items of the plan, dtype ``WORK_ITEM``; num_items: how many, empty ones included.
            buffers: with room for the plan's slots.
            pool: K and V of the layer.
            query, output: [sequences, query heads, head_dim].
            block_tables: int32, the tables of all sequences one after the other.
            stream: a cupy stream.
            early: whether it may start while the launch before it ends. That launch may make the queries and
                store the newest token of each sequence, but not write items, tables or older tokens.
        """
        params = pack(
            DECODE_PARAMS,
            query=query,
            output=output,
            block_tables=block_tables,
            key=pool.key,
            value=pool.value,
            items=items,
            partial_output=buffers.output,
            partial_state=buffers.state,
            arrivals=buffers.arrivals,
            block_stride=pool.block_stride,
            token_stride=pool.token_stride,
            head_stride=pool.head_stride,
            scale=self.scale,
            num_query_heads=self.num_query_heads,
            group=self.heads.group,
            item_heads=self.heads.per_item,
            log2_block_size=pool.block_size.bit_length() - 1,
        )
        threads, shared = 32 * form.num_warps, self.shared_bytes(form)
        launch(self.kernel(form), (num_items, 1), threads, params, stream, shared_bytes=shared, early=early)


class Prefill:
    """Prefill attention for one model on the current device; arguments and errors as ``Decode``."""

    def __init__(
        self, num_query_heads: int, num_kv_heads: int, head_dim: int, *, bf16: bool, addressing: Addressing
    ) -> None:
        check_sizes(num_query_heads, num_kv_heads, head_dim)
        self.num_query_heads = num_query_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.scale = math.log2(math.e) / math.sqrt(head_dim)
        variant = kernels.prefill_variant(head_dim, bf16, addressing)
        self.kernel = kernels.load(variant, cupy.cuda.Device().id)
        self.shared_bytes = kernels.prefill_shared_bytes(head_dim)
        allow_shared(self.kernel, self.shared_bytes)

    def launch(
        self, items: int, num_items: int, pool: PoolView, query: int, output: int, block_tables: int, stream: Any
    ) -> None:
        """Enqueue the attention of one layer; addresses are of the device.

        Args:
            items: dtype ``batch.PREFILL_ITEM``; num_items: how many.
            pool: K and V of the layer, the chunk's own stored already.
            query, output: [tokens, query heads, head_dim].
            block_tables: int32, the tables of all sequences one after the other.
            stream: a cupy stream.
        """
        params = pack(
            PREFILL_PARAMS,
            query=query,
            output=output,
            block_tables=block_tables,
            key=pool.key,
            value=pool.value,
            items=items,
            block_stride=pool.block_stride,
            token_stride=pool.token_stride,
            head_stride=pool.head_stride,
            scale=self.scale,
            num_query_heads=self.num_query_heads,
            group=self.num_query_heads // self.num_kv_heads,
            log2_block_size=pool.block_size.bit_length() - 1,
        )
        grid = (num_items, self.num_kv_heads)
        threads = 32 * kernels.PREFILL_WARPS
        launch(self.kernel, grid, threads, params, stream, shared_bytes=self.shared_bytes, early=True)


def allow_shared(kernel: Any, num_bytes: int) -> None:
    """Raise the dynamic shared memory that a kernel may ask for, where 48 KiB are not enough."""
    if num_bytes > 48 * 1024 and kernel.max_dynamic_shared_size_bytes < num_bytes:
        kernel.max_dynamic_shared_size_bytes = num_bytes


def check_sizes(num_query_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """Raise UnavailableError unless there is a kernel for these sizes."""
    if head_dim not in kernels.HEAD_DIMS:
        raise UnavailableError(
            f"backend cuda has no kernel for head_dim {head_dim}; it has {', '.join(map(str, kernels.HEAD_DIMS))}"
        )
    if num_query_heads % num_kv_heads or not 1 <= num_query_heads // num_kv_heads <= kernels.MAX_GROUP:
        raise UnavailableError(
            f"backend cuda serves 1 to {kernels.MAX_GROUP} query heads a KV head; "
            f"{num_query_heads} query heads over {num_kv_heads} KV heads are not"
        )
