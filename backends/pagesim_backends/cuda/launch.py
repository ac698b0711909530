"""Launches kernels by the driver's ``cuLaunchKernelEx``: cheaper than CuPy's call, and early where a kernel allows it.

An *early* launch (programmatic dependent launch, Hopper and later) starts its thread blocks while the launch
before it still ends; the kernel itself waits (``griddepcontrol.wait``) before it touches what that one
writes. In a CUDA graph the edge between the two becomes a programmatic one. Where the driver or the device
does not know it, a launch is an ordinary one: the kernel's wait then returns at once.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

import cupy
import numpy as np
import numpy.typing as npt

_PROGRAMMATIC_STREAM_SERIALIZATION: Final = 6  # CU_LAUNCH_ATTRIBUTE_...
_FIRST_WITH_EARLY_LAUNCHES: Final = 90  # compute capability


class _Attribute(ctypes.Structure):
    """``CUlaunchAttribute``: the value is a union of 64 bytes, whose first int is all that is used here."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60))


class _Config(ctypes.Structure):
    """``CUlaunchConfig``."""

    _fields_ = (
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z")),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("num_attributes", ctypes.c_uint),
    )


_EARLY: Final = _Attribute(_PROGRAMMATIC_STREAM_SERIALIZATION, b"", 1, b"")


def pack(dtype: np.dtype[np.void], **values: Any) -> npt.NDArray[np.void]:
    """Return a kernel's parameters from values by name; those left out are 0. Raises KeyError on another name."""
    names = dtype.names or ()
    row = tuple(values.pop(name, 0) for name in names)
    if values:
        raise KeyError(f"no parameter {', '.join(values)}; there are {', '.join(names)}")
    return np.array(row, dtype)


def launch(
    kernel: Any,
    grid: tuple[int, int],
    num_threads: int,
    params: npt.NDArray[np.void],
    stream: Any,
    *,
    shared_bytes: int = 0,
    early: bool = False,
) -> None:
    """Enqueue a kernel.

    Args:
        kernel: of ``kernels.load``.
        grid: thread blocks, in x and y.
        num_threads: of a thread block.
        params: the one structure that the kernel takes.
        stream: a cupy stream.
        shared_bytes: dynamic shared memory.
        early: whether it may start while the launch before it in the stream ends.

    Raises CUDADriverError if the driver refuses it.
    """
    call = _driver_call()
    if call is None:
        with stream:
            kernel(grid, (num_threads,), (params,), shared_mem=shared_bytes)
        return
    early = early and _can_start_early(cupy.cuda.Device().id)
    config = _Config(*grid, 1, num_threads, 1, 1, shared_bytes, stream.ptr, ctypes.pointer(_EARLY), int(early))
    arguments = (ctypes.c_void_p * 1)(params.ctypes.data)
    status = call(ctypes.byref(config), kernel.kernel.ptr, arguments, None)
    if status:
        raise cupy.cuda.driver.CUDADriverError(status)


@cache
def _driver_call() -> Any:
    """Return ``cuLaunchKernelEx`` of the driver, None where there is no such driver (before CUDA 12)."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            call = ctypes.CDLL(name).cuLaunchKernelEx
        except (OSError, AttributeError):
            continue
        call.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        call.restype = ctypes.c_int
        return call
    return None


@cache
def _can_start_early(device: int) -> bool:
    return int(cupy.cuda.Device(device).compute_capability) >= _FIRST_WITH_EARLY_LAUNCHES
