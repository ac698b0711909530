"""Launches the attention kernels: plans to device buffers, sizes to parameters."""

from __future__ import annotations

import math
from typing import Any, Protocol

import cupy
import numpy as np

from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.kernels import DECODE_PARAMS, PREFILL_PARAMS, Addressing, Form, PoolView
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

    def kernel(self, form: Form) -> Any:
        """Return the compiled kernel for a form."""
        variant = kernels.decode_variant(self.head_dim, self.bf16, self.heads.group, form, self.addressing)
        return kernels.load(variant, self.device.id)

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
        """
        kernel = self.kernel(form)
        params = np.zeros((), DECODE_PARAMS)
        params["query"], params["output"], params["block_tables"] = query, output, block_tables
        params["key"], params["value"], params["items"] = pool.key, pool.value, items
        params["partial_output"], params["partial_state"] = buffers.output, buffers.state
        params["arrivals"] = buffers.arrivals
        params["block_stride"] = pool.block_stride
        params["token_stride"] = pool.token_stride
        params["head_stride"] = pool.head_stride
        params["scale"] = self.scale
        params["num_query_heads"] = self.num_query_heads
        params["group"] = self.heads.group
        params["item_heads"] = self.heads.per_item
        params["log2_block_size"] = pool.block_size.bit_length() - 1
        shared = kernels.decode_shared_bytes(form.num_warps, self.heads.per_item, self.head_dim, MAX_SPLITS)
        allow_shared(kernel, shared)
        with stream:
            kernel((num_items,), (32 * form.num_warps,), (params,), shared_mem=shared)


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
        params = np.zeros((), PREFILL_PARAMS)
        params["query"], params["output"], params["block_tables"] = query, output, block_tables
        params["key"], params["value"], params["items"] = pool.key, pool.value, items
        params["block_stride"] = pool.block_stride
        params["token_stride"] = pool.token_stride
        params["head_stride"] = pool.head_stride
        params["scale"] = self.scale
        params["num_query_heads"] = self.num_query_heads
        params["group"] = self.num_query_heads // self.num_kv_heads
        params["log2_block_size"] = pool.block_size.bit_length() - 1
        with stream:
            self.kernel((num_items, self.num_kv_heads), (256,), (params,), shared_mem=self.shared_bytes)


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
