"""Compiles the .cu files of this folder, once for each combination of tunables. The only file that says RawModule.

A *variant* is a source file, its kernels and the macros it is compiled with; sizes and types are macros
because registers are counted at compile time. Nothing is included from outside this folder, so NVRTC
alone compiles every variant, on a machine without a GPU too (``offline.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from pagesim.errors import BackendError
from pagesim_backends.errors import UnavailableError

FOLDER: Final = Path(__file__).parent

HEAD_DIMS: Final = (64, 80, 96, 128, 256)
MAX_GROUP: Final = 16
TILE_HEADS: Final = 8  # query heads of one tensor-core product
CHUNK: Final = 16  # tokens of one step of a warp
PREFILL_WARPS: Final = 8
PREFILL_ROWS: Final = 16 * PREFILL_WARPS

TOKEN_PARAMS: Final = np.dtype(
    [(name, np.uint64) for name in ("keys", "query", "key", "value")]
    + [
        (name, np.int32)
        for name in ("num_tokens", "num_layers", "num_query_heads", "num_kv_heads", "head_dim", "first_layer")
    ],
    align=True,
)
WRITE_PARAMS: Final = np.dtype(
    [(name, np.uint64) for name in ("key", "value", "key_pool", "value_pool", "slots")]
    + [(name, np.int64) for name in ("block_stride", "token_stride", "head_stride")]
    + [(name, np.int32) for name in ("num_tokens", "num_kv_heads", "head_dim", "log2_block_size")],
    align=True,
)
MOVE_PARAMS: Final = np.dtype(
    [(name, np.uint64) for name in ("source", "target", "blocks")]
    + [
        (name, np.int64)
        for name in ("source_stride", "target_stride", "source_piece_stride", "target_piece_stride", "piece_bytes")
    ]
    + [("num_blocks", np.uint32), ("num_pieces", np.uint32), ("stretch", np.uint32)],
    align=True,
)
READ_PARAMS: Final = np.dtype([(name, np.uint64) for name in ("source", "sink")] + [("num_vectors", np.int64)])
DECODE_PARAMS: Final = np.dtype(
    [
        (name, np.uint64)
        for name in (
            "query",
            "key",
            "value",
            "output",
            "items",
            "block_tables",
            "partial_output",
            "partial_state",
            "arrivals",
        )
    ]
    + [(name, np.int64) for name in ("block_stride", "token_stride", "head_stride")]
    + [("scale", np.float32)]
    + [(name, np.int32) for name in ("num_query_heads", "group", "item_heads", "log2_block_size", "unused")],
    align=True,
)
PREFILL_PARAMS: Final = np.dtype(
    [(name, np.uint64) for name in ("query", "key", "value", "output", "items", "block_tables")]
    + [(name, np.int64) for name in ("block_stride", "token_stride", "head_stride")]
    + [("scale", np.float32)]
    + [(name, np.int32) for name in ("num_query_heads", "group", "log2_block_size")],
    align=True,
)


class Addressing(IntEnum):
    """How a kernel finds the slot of a token; the values are those of the .cu files."""

    PAGED = 0  # blocks of 16 and more: one table entry a chunk
    PAGED_SMALL = 1  # blocks of 1 to 8: one entry a token
    CONTIGUOUS = 2  # no table: a sequence is one run of slots


@dataclass(frozen=True)
class Form:
    """How decode attention occupies a multiprocessor.

    Attributes:
        num_warps: warps of a thread block.
        blocks_per_sm: thread blocks that run on a multiprocessor at once.
    """

    num_warps: int
    blocks_per_sm: int


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
class Variant:
    """One compilation of a source file.

    Attributes:
        source: file in this folder.
        kernel: the kernel's name.
        macros: name -> value.
        max_registers: more of them would break the occupancy that the design counts on.
    """

    source: str
    kernel: str
    macros: tuple[tuple[str, int], ...]
    max_registers: int = 255

    @property
    def options(self) -> tuple[str, ...]:
        """Compiler options, without the architecture."""
        return ("-std=c++17", f"-I{FOLDER}", *(f"-D{name}={value}" for name, value in self.macros))


def head_tiles(group: int, head_dim: int) -> int:
    """Return how many tiles of 8 query heads share a load of K and V.

    Two tiles of heads of 256 do not fit the registers; such a group is spread over two work items.
    """
    return 2 if group > TILE_HEADS and head_dim <= 128 else 1


def forms(group: int, head_dim: int) -> tuple[Form, ...]:
    """Return the forms in which a decode kernel runs without spilling, of 12 or of 8 warps a multiprocessor."""
    if head_dim == 256 or (head_dim == 128 and head_tiles(group, head_dim) == 2):
        return (Form(4, 2), Form(8, 1), Form(2, 4))
    return (Form(4, 3), Form(12, 1), Form(8, 1), Form(6, 2), Form(3, 4), Form(2, 6))


def decode_variant(head_dim: int, bf16: bool, group: int, form: Form, addressing: Addressing) -> Variant:
    """Return decode attention for one head size, type, group, form and addressing."""
    threads = 32 * form.num_warps * form.blocks_per_sm
    return Variant(
        "contiguous_attention.cu" if addressing is Addressing.CONTIGUOUS else "paged_attention.cu",
        "decode_attention",
        (
            ("HEAD_DIM", head_dim),
            ("BF16", int(bf16)),
            ("NUM_WARPS", form.num_warps),
            ("MIN_BLOCKS", form.blocks_per_sm),
            ("HEAD_TILES", head_tiles(group, head_dim)),
            ("SMALL_BLOCKS", int(addressing is Addressing.PAGED_SMALL)),
        ),
        min(65536 // threads // 8 * 8, 255),
    )


def prefill_variant(head_dim: int, bf16: bool, addressing: Addressing) -> Variant:
    """Return prefill attention for one head size, type and addressing."""
    return Variant(
        "prefill_attention.cu",
        "prefill_attention",
        (
            ("HEAD_DIM", head_dim),
            ("BF16", int(bf16)),
            ("IS_CONTIGUOUS", int(addressing is Addressing.CONTIGUOUS)),
            ("NUM_WARPS", PREFILL_WARPS),
            ("MIN_BLOCKS", 1),
            ("KEYS", prefill_keys(head_dim)),
        ),
    )


def prefill_keys(head_dim: int) -> int:
    """Return the keys of a tile; few where the output alone takes half the registers."""
    return 16 if head_dim > 128 else 64


def cache_variant(kernel: str, bf16: bool) -> Variant:
    """Return ``draw_tokens``, ``write_tokens``, ``move_blocks`` or ``read_all``."""
    return Variant("cache_ops.cu", kernel, (("BF16", int(bf16)),))


def prefill_shared_bytes(head_dim: int) -> int:
    """Return the dynamic shared memory of a prefill thread block: two stages of K and V tiles."""
    keys = prefill_keys(head_dim)
    k_row = head_dim + (96 - head_dim % 64) % 64
    return 2 * keys * (k_row + head_dim + 8) * 2


def decode_shared_bytes(num_warps: int, item_heads: int, head_dim: int, max_splits: int) -> int:
    """Return the dynamic shared memory of a decode thread block.

    A row of outputs, a maximum and a sum for each warp and head; the weights of a merge take its place later.
    """
    rows = num_warps * item_heads
    return max(rows * (head_dim + 4) + 2 * rows, item_heads * max_splits) * 4


@cache
def load(variant: Variant, device: int) -> Any:
    """Return the compiled kernel on the current device, ready to launch; compiled once a process and device.

    Raises BackendError if the compiler refuses it, with the compiler's words; UnavailableError without a compiler.
    """
    import cupy

    module = cupy.RawModule(code=(FOLDER / variant.source).read_text(), options=variant.options, backend="nvrtc")
    try:
        module.compile()
    except cupy.cuda.compiler.CompileException as error:
        raise BackendError(f"{variant.source} does not compile for this GPU with {variant.macros}: {error}") from None
    except (ImportError, OSError, RuntimeError) as error:  # as CuPy's loader of NVRTC words it
        raise UnavailableError(
            f"backend cuda compiles its kernels by NVRTC, which CuPy cannot load ({_first_line(error)}); install it: "
            "pip install nvidia-cuda-nvrtc"
        ) from None
    return module.get_function(variant.kernel)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
