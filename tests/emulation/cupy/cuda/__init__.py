"""Streams, events, memory and kernels: everything runs at once, on the CPU, when it is enqueued."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

HERE = Path(__file__).parents[2]
NUM_SMS = 4


class CUDARuntimeError(RuntimeError):
    """What the runtime raises."""


class CUDADriverError(RuntimeError):
    """What the driver raises."""


class OutOfMemoryError(MemoryError):
    """What the memory pool raises."""


class CompileException(Exception):  # noqa: N818  (the name is CuPy's)
    """What the compiler raises."""


memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
driver = SimpleNamespace(CUDADriverError=CUDADriverError)
compiler = SimpleNamespace(CompileException=CompileException)


class Graph:
    """Launches that were captured, to be performed again."""

    def __init__(self, work: list[Callable[[], None]]) -> None:
        self._work = work

    def upload(self, stream: Stream) -> None:
        pass

    def launch(self, stream: Stream) -> None:
        for launch in self._work:
            stream.do(launch)


class Stream:
    """Performs work as soon as it is enqueued, or captures it."""

    _current: ClassVar[list[Stream]] = []

    def __init__(self, *, non_blocking: bool = False) -> None:
        self.ptr = id(self)
        self._captured: list[Callable[[], None]] | None = None

    def __enter__(self) -> Stream:
        self._current.append(self)
        return self

    def __exit__(self, *failure: object) -> None:
        self._current.pop()

    def do(self, work: Callable[[], None]) -> None:
        if self._captured is None:
            work()
        else:
            self._captured.append(work)

    def begin_capture(self) -> None:
        self._captured = []

    def end_capture(self) -> Graph:
        graph = Graph(self._captured or [])
        self._captured = None
        return graph

    @property
    def done(self) -> bool:
        return True

    def synchronize(self) -> None:
        if self._captured is not None:
            raise CUDARuntimeError("a stream is synchronized while it captures")

    def wait_event(self, event: Event) -> None:
        pass


class Event:
    """A point in time."""

    def __init__(self, *, disable_timing: bool = False) -> None:
        self.at = 0.0

    @property
    def done(self) -> bool:
        return True

    def record(self, stream: Stream) -> None:
        stream.do(self._mark)

    def synchronize(self) -> None:
        pass

    def _mark(self) -> None:
        self.at = time.perf_counter()


def get_elapsed_time(begin: Event, end: Event) -> float:
    """Return milliseconds between two events."""
    return (end.at - begin.at) * 1e3


class Device:
    """The one device."""

    id = 0
    compute_capability = "90"
    attributes: ClassVar[dict[str, int]] = {
        "MultiProcessorCount": NUM_SMS,
        "MaxSharedMemoryPerBlockOptin": 227 * 1024,
    }

    def synchronize(self) -> None:
        pass


class Memory:
    """Memory of the device."""

    LIMIT = 2**33

    def __init__(self, num_bytes: int) -> None:
        self.held = np.full(num_bytes + 256, 0xFF, np.uint8)
        self.held = self.held[-self.held.ctypes.data % 256 :][:num_bytes]
        self.ptr = self.held.ctypes.data


class PinnedMemory(Memory):
    """Memory of the host."""

    def __init__(self, num_bytes: int) -> None:
        if num_bytes > self.LIMIT:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        super().__init__(num_bytes)


class MemoryPointer:
    """A place in memory."""

    def __init__(self, memory: Memory, offset: int) -> None:
        self.memory = memory
        self.ptr = memory.ptr + offset


PinnedMemoryPointer = MemoryPointer


def alloc_pinned_memory(num_bytes: int) -> Any:
    """Return a buffer."""
    return np.zeros(num_bytes, np.uint8)


class _Runtime:
    CUDARuntimeError = CUDARuntimeError
    memcpyHostToDevice, memcpyDeviceToHost = 1, 2  # noqa: N815

    @staticmethod
    def getDeviceCount() -> int:  # noqa: N802
        return 1

    @staticmethod
    def memGetInfo() -> tuple[int, int]:  # noqa: N802
        return Memory.LIMIT, Memory.LIMIT

    @staticmethod
    def runtimeGetVersion() -> int:  # noqa: N802
        return 13000

    @staticmethod
    def driverGetVersion() -> int:  # noqa: N802
        return 13000

    @staticmethod
    def getDeviceProperties(device: int) -> dict[str, bytes]:  # noqa: N802
        return {"name": b"emulated on the CPU"}

    @staticmethod
    def memcpyAsync(target: int, source: int, num_bytes: int, kind: int, stream: int) -> None:  # noqa: N802
        ctypes.memmove(target, source, num_bytes)


runtime = _Runtime()


class RawModule:
    """Compiles a .cu file with the host's C++ compiler."""

    def __init__(self, *, code: str, options: tuple[str, ...], backend: str) -> None:
        self._code = code
        self._options = options

    def compile(self) -> None:
        """Do nothing: a library holds one kernel, so its name is needed first."""

    def get_function(self, name: str) -> Kernel:
        """Return the kernel."""
        return Kernel(_library(self._code, self._options, name), name)


class Kernel:
    """A kernel that runs when it is called, on the current stream."""

    max_dynamic_shared_size_bytes = 48 * 1024

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._emulate = library.emulate
        self._emulate.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        (params,) = args
        kept = np.array(params, copy=True)
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDARuntimeError("cudaErrorInvalidValue: more shared memory than allowed")
        across = (*grid, 1)

        def launch() -> None:
            self._emulate(kept.ctypes.data, across[0], across[1], block[0], shared_mem)

        if Stream._current:
            Stream._current[-1].do(launch)
        else:
            launch()


def _library(code: str, options: tuple[str, ...], name: str) -> ctypes.CDLL:
    folder = next(Path(option[2:]) for option in options if option.startswith("-I"))
    source = _expand(code, folder).replace("extern __shared__ float4 dynamic[];", "").replace("__shared__ ", "static ")
    source += (
        '\nextern "C" void emulate(const void* params, int x, int y, int threads, long shared) {\n'
        f"  run_grid(x, y, threads, shared, [=] {{ call({name}, params); }});\n}}\n"
    )
    macros = [option for option in options if option.startswith("-D")]
    digest = hashlib.blake2b((source + " ".join(macros)).encode(), digest_size=12).hexdigest()
    cache = Path(tempfile.gettempdir()) / f"pagesim-emulation-{os.getuid()}"
    cache.mkdir(exist_ok=True)
    library = cache / f"{digest}.so"
    if not library.exists():
        unfinished = cache / f"{digest}.{os.getpid()}"
        text = unfinished.with_suffix(".cc")
        text.write_text(source)
        command = [
            "g++",
            "-std=c++17",
            "-O2",
            "-march=native",
            "-fno-strict-aliasing",
            "-fPIC",
            "-shared",
            "-w",
            *macros,
        ]
        done = subprocess.run([*command, str(text), "-o", str(unfinished)], capture_output=True, text=True, check=False)
        text.unlink()
        if done.returncode:
            raise CompileException(done.stderr)
        unfinished.rename(library)
    return ctypes.CDLL(str(library))


def _expand(code: str, folder: Path) -> str:
    """Return the source with the includes in quotes replaced by their text, each once."""
    seen: set[str] = set()

    def text(source: str) -> str:
        lines = []
        for line in source.splitlines():
            if not line.startswith('#include "'):
                lines.append(line)
                continue
            name = line.split('"')[1]
            if name not in seen:
                seen.add(name)
                lines.append(text(((HERE if name == "ptx.cuh" else folder) / name).read_text()))
        return "\n".join(line for line in lines if not line.startswith("#pragma once"))

    return text(code)
