"""How much memory there is: the arithmetic from a device and a model to blocks of a pool."""

from __future__ import annotations

from dataclasses import dataclass

from pagesim.catalog import DeviceSpec, ModelSpec
from pagesim.config import AllocatorConfig, ExperimentConfig
from pagesim.errors import ConfigError
from pagesim.units import format_bytes

DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
DEFAULT_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Sizing:
    """Sizes that all rows of an experiment share, on each GPU.

    Attributes:
        device_bytes: memory of the device; budget_bytes: the fraction that may be used.
        weight_bytes: weights of one GPU; activation_bytes: of the largest batch.
        kv_cache_bytes: what the KV cache gets; host_bytes: what it gets on the host.
        kv_bytes_per_token: of one slot.
    """

    device_bytes: int
    budget_bytes: int
    weight_bytes: int
    activation_bytes: int
    kv_cache_bytes: int
    host_bytes: int
    kv_bytes_per_token: int
    is_auto: bool

    @property
    def num_slots(self) -> int:
        """Slots of the device pool of every row."""
        return self.kv_cache_bytes // self.kv_bytes_per_token


@dataclass(frozen=True, slots=True)
class PoolSizes:
    """Sizes of one row's pool."""

    block_size: int
    num_blocks: int
    watermark_blocks: int
    num_host_blocks: int


def activation_bytes(model: ModelSpec, num_tokens: int, num_seqs: int, dtype_bytes: int, tensor_parallel: int) -> int:
    """Return an upper estimate of the activations of one layer at a time, and of the logits.

    Four vectors of the hidden size (residual, normalised input, attention output, block output), q, k and v
    and the two of the feed-forward part, per token; logits in float32 for each sequence. An engine reuses
    these buffers from layer to layer.
    """
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    per_token = (4 * model.hidden_size + (heads + 2 * model.ffn_size) // tensor_parallel) * dtype_bytes
    return num_tokens * per_token + num_seqs * model.vocab_size * 4 // tensor_parallel


def size_memory(config: ExperimentConfig, model: ModelSpec, device: DeviceSpec) -> Sizing:
    """Return the sizes of an experiment.

    Raises ConfigError where the weights do not fit, or nothing is left for the KV cache.
    """
    memory, degree = config.memory, config.tensor_parallel
    dtype_bytes = DTYPE_BYTES[memory.dtype]
    weights = model.num_parameters * dtype_bytes // degree
    activations = activation_bytes(
        model, config.scheduler.max_num_batched_tokens, config.scheduler.max_num_seqs, dtype_bytes, degree
    )
    budget = int(device.memory_bytes * memory.fraction)
    names = f"{model.name} on {degree} x {device.name}"
    if weights > device.memory_bytes:
        raise ConfigError(
            f"model: the weights of {names} are {format_bytes(weights)} a GPU, and its memory is "
            f"{format_bytes(device.memory_bytes)}; take a larger device or a higher tensor_parallel"
        )
    is_auto = not isinstance(memory.kv_cache, int)
    available = budget - weights - activations if is_auto else device.memory_bytes - weights
    kv_cache = memory.kv_cache if isinstance(memory.kv_cache, int) else available
    if is_auto and kv_cache <= 0:
        raise ConfigError(
            f"memory.kv_cache: nothing is left for {names}: {format_bytes(budget)} "
            f"({memory.fraction:.0%} of the memory) - {format_bytes(weights)} of weights "
            f"- {format_bytes(activations)} of activations; "
            f"raise memory.fraction, lower max_num_batched_tokens or take a larger device"
        )
    if kv_cache > available:
        raise ConfigError(
            f"memory.kv_cache: {format_bytes(kv_cache)} and {format_bytes(weights)} of weights ({names}) are more than "
            f"the device's {format_bytes(device.memory_bytes)}"
        )
    per_token = model.kv_bytes_per_token(dtype_bytes, degree)
    if kv_cache < per_token:
        raise ConfigError(
            f"memory.kv_cache: {format_bytes(kv_cache)} holds no token of {model.name}, whose KV is "
            f"{format_bytes(per_token)} a token"
        )
    return Sizing(
        device_bytes=device.memory_bytes,
        budget_bytes=budget,
        weight_bytes=weights,
        activation_bytes=activations,
        kv_cache_bytes=kv_cache,
        host_bytes=memory.host_kv_cache,
        kv_bytes_per_token=per_token,
        is_auto=is_auto,
    )


def size_pool(sizing: Sizing, row: AllocatorConfig, policy: type, default_watermark: float, name: str) -> PoolSizes:
    """Return the pool of one row: the policy's class says what it gets where the row says nothing.

    Raises ConfigError where not even one block fits.
    """
    block_size = row.block_size or int(getattr(policy, "default_block_size", DEFAULT_BLOCK_SIZE))
    num_blocks = sizing.num_slots // block_size
    if not num_blocks:
        raise ConfigError(
            f"allocators.{name}.block_size: a block of {block_size} tokens is larger than the pool "
            f"of {sizing.num_slots} slots"
        )
    watermark = row.watermark
    if watermark is None:
        watermark = float(getattr(policy, "default_watermark", default_watermark))
    num_host_blocks = sizing.host_bytes // (sizing.kv_bytes_per_token * block_size)
    return PoolSizes(block_size, num_blocks, int(watermark * num_blocks), num_host_blocks)
