"""How many parameters a decoder-only transformer has, from its shapes.

The counts follow the architectures as published: GPT-2 (Radford et al. 2019), OPT (Zhang et al. 2022),
Llama (Touvron et al. 2023), Qwen2 and Qwen3 (Qwen team 2024, 2025), Gemma (Gemma team 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that a number of parameters depends on; see ``ModelSpec`` for their meaning."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    ffn_size: int
    vocab_size: int
    max_position: int


@dataclass(frozen=True, slots=True)
class Family:
    """What architectures differ in.

    Attributes:
        is_tied: whether the output projection is the token embedding.
        is_gated: whether the feed-forward part has a gate (SwiGLU, GeGLU): three matrices, not two.
        has_position_table: whether positions are learned rows; ``position_padding`` rows precede them.
        has_norm_bias: LayerNorm has weight and bias, RMSNorm a weight only.
        has_qkv_bias, has_output_bias, has_ffn_bias: biases of the projections.
        has_qk_norm: whether queries and keys are normalised, with a weight for each element of a head.
        has_final_norm: whether the last hidden state is normalised.
        embedding_size: width of the embeddings if other than the hidden size (two projections more).
    """

    is_tied: bool
    is_gated: bool
    has_position_table: bool = False
    position_padding: int = 0
    has_norm_bias: bool = False
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_ffn_bias: bool = False
    has_qk_norm: bool = False
    has_final_norm: bool = True
    embedding_size: int | None = None


FAMILIES: Final[dict[str, Family]] = {
    "gpt2": Family(
        is_tied=True,
        is_gated=False,
        has_position_table=True,
        has_norm_bias=True,
        has_qkv_bias=True,
        has_output_bias=True,
        has_ffn_bias=True,
    ),
    "opt": Family(
        is_tied=True,
        is_gated=False,
        has_position_table=True,
        position_padding=2,
        has_norm_bias=True,
        has_qkv_bias=True,
        has_output_bias=True,
        has_ffn_bias=True,
    ),
    "llama": Family(is_tied=False, is_gated=True),
    "mistral": Family(is_tied=False, is_gated=True),
    "qwen2": Family(is_tied=False, is_gated=True, has_qkv_bias=True),
    "qwen3": Family(is_tied=False, is_gated=True, has_qk_norm=True),
    "gemma": Family(is_tied=True, is_gated=True),
}
"""Architectures by their name in a configuration file (``model_type``)."""


def num_parameters(shape: Shape, family: Family) -> int:
    """Return the number of trained parameters, each tensor counted once."""
    hidden, ffn = shape.hidden_size, shape.ffn_size
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_kv_heads * shape.head_dim
    norm = hidden * (2 if family.has_norm_bias else 1)
    layer = hidden * (queries + 2 * keys) + queries * hidden
    layer += (3 if family.is_gated else 2) * hidden * ffn
    layer += 2 * norm
    if family.has_qkv_bias:
        layer += queries + 2 * keys
    if family.has_output_bias:
        layer += hidden
    if family.has_ffn_bias:
        layer += (2 if family.is_gated else 1) * ffn + hidden
    if family.has_qk_norm:
        layer += 2 * shape.head_dim
    width = hidden if family.embedding_size is None else family.embedding_size
    total = shape.num_layers * layer + shape.vocab_size * width * (1 if family.is_tied else 2)
    if width != hidden:
        total += 2 * width * hidden
    if family.has_position_table:
        total += (shape.max_position + family.position_padding) * hidden
    if family.has_final_norm:
        total += norm
    return total
