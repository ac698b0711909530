"""Compiles kernels without a GPU, a driver or CuPy, and reads what the assembler says about them.

By NVRTC where its library is installed (the packages ``nvidia-cuda-nvrtc`` and ``cupy-cuda13x[ctk]`` bring it), else
by ``nvcc``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from pagesim.errors import BackendError
from pagesim_backends.cuda.kernels import FOLDER, Variant

_LIBRARIES: Final = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes of a multiprocessor."""

    registers: int
    spilled_bytes: int
    stack_bytes: int


def compile_cubin(variant: Variant, architecture: str) -> Resources:
    """Compile and return what the assembler reports.

    Args:
        variant: what to compile.
        architecture: ``sm_80``, ``sm_90`` and so on.

    Raises BackendError with the compiler's words if it does not compile, or if there is no compiler.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BackendError("no CUDA compiler: install nvidia-cuda-nvrtc, or put nvcc on the path")
    log = (_by_nvrtc if compiler == "nvrtc" else _by_nvcc)(variant, architecture)
    return parse_resources(log, variant.kernel)


def find_compiler() -> str | None:
    """Return ``nvrtc``, ``nvcc`` or None."""
    if _nvrtc() is not None:
        return "nvrtc"
    return "nvcc" if shutil.which("nvcc") else None


def parse_resources(log: str, kernel: str) -> Resources:
    """Return what ``ptxas -v`` says about one kernel. Raises BackendError if it says nothing."""
    match = re.search(
        rf"Function properties for {kernel}\s.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        log,
        re.DOTALL,
    )
    if match is None:
        raise BackendError(f"the assembler reports nothing about {kernel}: {log}")
    stack, stores, loads, registers = map(int, match.groups())
    return Resources(registers, stores + loads, stack)


@cache
def _nvrtc() -> ctypes.CDLL | None:
    """Return NVRTC's library: that of an installed package, or one that the system's loader finds."""
    for name in (*map(str, _packaged()), *_LIBRARIES):
        try:
            # It opens its built-in headers by their bare name, which the loader knows once they are loaded.
            for builtins in sorted(Path(name).parent.glob("libnvrtc-builtins.so.*")) if "/" in name else ():
                ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _packaged() -> Iterator[Path]:
    """Yield the library in the folders that NVIDIA's packages share."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for name in _LIBRARIES:
            yield from sorted(Path(folder).glob(f"*/lib/{name}"))


def _by_nvrtc(variant: Variant, architecture: str) -> str:
    library = _nvrtc()
    assert library is not None
    program = ctypes.c_void_p()
    source = (FOLDER / variant.source).read_bytes()
    library.nvrtcCreateProgram(ctypes.byref(program), source, variant.source.encode(), 0, None, None)
    options = [*variant.options, f"-arch={architecture}", "--ptxas-options=-v"]
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if status:
        raise BackendError(f"{variant.source} does not compile for {architecture}: {log.value.decode()}")
    return log.value.decode()


def _by_nvcc(variant: Variant, architecture: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-cubin", f"-arch={architecture}", "-Xptxas", "-v", *variant.options]
        command += ["-o", f"{folder}/kernel.cubin", str(FOLDER / variant.source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(f"{variant.source} does not compile for {architecture}: {done.stderr}")
    return done.stderr
