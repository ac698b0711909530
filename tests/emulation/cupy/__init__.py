"""A stand-in for the part of CuPy that pagesim uses: arrays are numpy's, kernels run on the CPU.

With this folder on the path, the tests of ``tests/gpu`` execute the project's own kernels, launched by the
project's own code, on a machine without a GPU; see ``ptx.cuh`` beside it for what that finds and what not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cupy import cuda

uint8, uint16, uint32 = np.uint8, np.uint16, np.uint32
float16, float32, float64 = np.float16, np.float32, np.float64


class _Pointer:
    def __init__(self, address: int) -> None:
        self.ptr = address


class Array(np.ndarray):
    """A numpy array that says its address as CuPy's do."""

    @property
    def data(self) -> _Pointer:  # type: ignore[override]
        """The address, as ``data.ptr``."""
        return _Pointer(self.ctypes.data)

    def set(self, values: Any) -> None:
        """Copy from the host."""
        self[...] = values


def _wrap(result: Any) -> Any:
    return result.view(Array) if isinstance(result, np.ndarray) else result


def ndarray(shape: Any, dtype: Any, memptr: Any) -> Any:
    """Return an array over memory that was allocated before."""
    return _wrap(memptr.memory.held[: int(np.prod(shape))].view(dtype).reshape(shape))


def asnumpy(array: Any) -> Any:
    """Return a copy as a plain numpy array."""
    return np.array(array, subok=False)


class _MemoryPool:
    @staticmethod
    def free_all_blocks() -> None:
        pass


def get_default_memory_pool() -> _MemoryPool:
    """Return a pool that keeps nothing."""
    return _MemoryPool()


class _Linalg:
    @staticmethod
    def norm(array: Any) -> Any:
        return np.linalg.norm(np.asarray(array).reshape(-1))


linalg = _Linalg()


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    function = getattr(np, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return _wrap(function(*args, **kwargs))

    return wrapped


RawModule = cuda.RawModule
