"""Copies many pieces over the host link by the copy engines, in one call where the driver has it.

A call for each piece costs 2.5 to 5 us of the copy engine's time: 25 GB/s for pieces of 128 KiB on an H200, over
one stream or four. ``cuMemcpyBatchAsync`` (CUDA 12.8) brings them to 50.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import cupy
import numpy as np
import numpy.typing as npt

_IN_STREAM_ORDER: Final = 1  # CU_MEMCPY_SRC_ACCESS_ORDER_STREAM

Addresses = npt.NDArray[np.uint64]


class _Attributes(ctypes.Structure):
    """``CUmemcpyAttributes``; the two locations are hints, left out."""

    _fields_ = (
        ("access_order", ctypes.c_int),
        ("source_hint", ctypes.c_int * 2),
        ("target_hint", ctypes.c_int * 2),
        ("flags", ctypes.c_uint),
    )


def copy_pieces(targets: Addresses, sources: Addresses, sizes: Addresses, stream: Any, *, to_host: bool) -> None:
    """Enqueue copies between the device and pinned host memory.

    Args:
        targets, sources: addresses; sizes: bytes of each piece.
        stream: a cupy stream, not the default one.
        to_host: the direction.

    Raises CUDADriverError or CUDARuntimeError if a copy is refused.
    """
    batch = _batch_call()
    if batch is not None:
        if status := batch(targets, sources, sizes, stream.ptr):
            raise cupy.cuda.driver.CUDADriverError(status)
        return
    runtime = cupy.cuda.runtime
    kind = runtime.memcpyDeviceToHost if to_host else runtime.memcpyHostToDevice
    for target, source, size in zip(targets.tolist(), sources.tolist(), sizes.tolist(), strict=True):
        runtime.memcpyAsync(target, source, size, kind, stream.ptr)


@cache
def _batch_call() -> Callable[[Addresses, Addresses, Addresses, int], int] | None:
    """Return the driver's batched copy, None where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    attributes, first = _Attributes(_IN_STREAM_ORDER), ctypes.c_size_t(0)
    newer = getattr(driver, "cuMemcpyBatchAsync_v2", None)
    function = newer or getattr(driver, "cuMemcpyBatchAsync", None)
    if function is None:
        return None
    failed = () if newer else (ctypes.byref(ctypes.c_size_t()),)  # an argument that CUDA 13 dropped

    def call(targets: Addresses, sources: Addresses, sizes: Addresses, stream: int) -> int:
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (targets, sources, sizes))
        return int(
            function(
                *pointers,
                ctypes.c_size_t(len(sizes)),
                ctypes.byref(attributes),
                ctypes.byref(first),
                ctypes.c_size_t(1),
                *failed,
                ctypes.c_void_p(stream),
            )
        )

    return call
