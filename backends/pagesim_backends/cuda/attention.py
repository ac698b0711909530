"""Launches the attention kernels: plans to device buffers, sizes to parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from pagesim.errors import BackendError
from pagesim_backends.cuda import kernels
from pagesim_backends.cuda.kernels import DECODE_PARAMS, Addressing, Form
from pagesim_backends.cuda.plan import DecodePlan, Heads

Array = Any  # cupy.ndarray


@dataclass(frozen=True)
class PoolView:
    """K and V of one layer, as a kernel sees them.

    Attributes:
        key, value: device addresses of slot 0.
        block_stride, token_stride, head_stride: elements from one to the next.
        block_size: slots of a block, a power of two.
    """

    key: int
    value: int
    block_stride: int
    token_stride: int
    head_stride: int
    block_size: int


@dataclass(frozen=True)
class DevicePlan:
    """A ``DecodePlan`` on the device, with room for its partial results."""

    plan: DecodePlan
    items: Array
    partial_output: Array
    partial_state: Array
    arrivals: Array


class Decode:
    """Decode attention for one model on the current device.

    Args:
        num_query_heads, num_kv_heads, head_dim: of the model.
        bf16: bf16 elements, else fp16.
        addressing: how slots are found.

    Raises BackendError on sizes without a kernel.
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
        self.num_sms = int(self.device.attributes["MultiProcessorCount"])
        self.scale = math.log2(math.e) / math.sqrt(head_dim)

    def upload(self, plan: DecodePlan) -> DevicePlan:
        """Copy a plan to the device."""
        rows = max(plan.num_slots, 1) * plan.item_heads
        return DevicePlan(
            plan,
            cupy.asarray(plan.items.view(np.uint8)),
            cupy.empty((rows, self.head_dim), np.float32),
            cupy.empty((rows, 2), np.float32),
            cupy.zeros(max(plan.num_slots, 1), np.int32),
        )

    def kernel(self, form: Form) -> Any:
        """Return the compiled kernel for a form."""
        variant = kernels.decode_variant(self.head_dim, self.bf16, self.heads.group, form, self.addressing)
        return kernels.load(variant, self.device.id)

    def launch(self, sent: DevicePlan, pool: PoolView, query: int, output: int, block_tables: int, stream: Any) -> None:
        """Enqueue the attention of one layer; addresses are of the device.

        Args:
            sent: from ``upload``.
            pool: K and V of the layer.
            query, output: [sequences, query heads, head_dim].
            block_tables: int32, the tables of all sequences one after the other.
            stream: a cupy stream.
        """
        plan = sent.plan
        kernel = self.kernel(plan.form)
        params = np.zeros((), DECODE_PARAMS)
        params["query"], params["output"], params["block_tables"] = query, output, block_tables
        params["key"], params["value"] = pool.key, pool.value
        params["items"] = sent.items.data.ptr
        params["partial_output"] = sent.partial_output.data.ptr
        params["partial_state"] = sent.partial_state.data.ptr
        params["arrivals"] = sent.arrivals.data.ptr
        params["block_stride"] = pool.block_stride
        params["token_stride"] = pool.token_stride
        params["head_stride"] = pool.head_stride
        params["scale"] = self.scale
        params["num_query_heads"] = self.num_query_heads
        params["group"] = self.heads.group
        params["item_heads"] = plan.item_heads
        params["log2_block_size"] = pool.block_size.bit_length() - 1
        shared = kernels.decode_shared_bytes(plan.form.num_warps, plan.item_heads, self.head_dim, plan.max_splits)
        allow_shared(kernel, shared)
        with stream:
            kernel((plan.num_blocks,), (32 * plan.form.num_warps,), (params,), shared_mem=shared)


def allow_shared(kernel: Any, num_bytes: int) -> None:
    """Raise the dynamic shared memory that a kernel may ask for, where 48 KiB are not enough."""
    if num_bytes > 48 * 1024 and kernel.max_dynamic_shared_size_bytes < num_bytes:
        kernel.max_dynamic_shared_size_bytes = num_bytes


def check_sizes(num_query_heads: int, num_kv_heads: int, head_dim: int) -> None:
    """Raise BackendError unless there is a kernel for these sizes."""
    if head_dim not in kernels.HEAD_DIMS:
        raise BackendError(
            f"backend cuda has no kernel for head_dim {head_dim}; it has {', '.join(map(str, kernels.HEAD_DIMS))}"
        )
    if num_query_heads % num_kv_heads or not 1 <= num_query_heads // num_kv_heads <= kernels.MAX_GROUP:
        raise BackendError(
            f"backend cuda serves 1 to {kernels.MAX_GROUP} query heads a KV head; "
            f"{num_query_heads} query heads over {num_kv_heads} KV heads are not"
        )
