"""What ``pagesim run`` says where the GPU backend cannot run: one sentence with the cure, exit code 2, nothing left.

CuPy is the emulation of ``tests/emulation``, with one thing broken in each case.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EXPERIMENT = """
name: small
model: {num_layers: 2, num_heads: 4, num_kv_heads: 2, head_dim: 64, hidden_size: 256, ffn_size: 512,
        vocab_size: 1000, num_parameters: 2000000, max_position: 4096}
device: h200
backend: {name: cuda, tune: false}
memory: {kv_cache: 160 KiB, host_kv_cache: 1 MiB}
workload:
  num_requests: 4
  arrivals: {process: poisson, rate: 20000}
  lengths: {prompt: {distribution: constant, value: 20}, output: {distribution: constant, value: 8}}
scheduler: {policy: chunked, max_num_seqs: 16, max_num_batched_tokens: 128, max_model_len: 80}
allocators:
  max:   {policy: contiguous, reserve: max}
  paged: {policy: paged, block_size: 8}
baseline: max
measure: {window: all}
ideal: false
"""

needs_emulation = pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64",
    reason="needs a host compiler with 16-bit floats (g++ on x86-64)",
)


def run(folder: Path, broken: str, *sets: str) -> subprocess.CompletedProcess[str]:
    """Run the experiment in a process in which ``broken`` has been executed first."""
    (folder / "small.yaml").write_text(EXPERIMENT)
    path = os.pathsep.join([str(ROOT / "tests" / "emulation"), str(ROOT), str(ROOT / "backends")])
    command = [
        sys.executable,
        "-c",
        f"{broken}\nimport sys\nfrom pagesim.cli import main\nsys.exit(main())",
        "run",
        "small.yaml",
    ]
    settings = [part for setting in sets for part in ("--set", setting)]
    return subprocess.run(
        [*command, "--out", "out", "--jobs", "1", "--no-report", *settings],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def raising(function: str, error: str) -> str:
    """Return code that makes a function of the runtime raise."""
    return (
        "import cupy\n"
        "def broken(*arguments):\n"
        f"    raise cupy.cuda.{error}\n"
        f"type(cupy.cuda.runtime).{function} = staticmethod(broken)"
    )


MACHINES = {
    "no CuPy": (
        "import sys; sys.modules['cupy'] = None",
        "backend cuda needs CuPy; install the extra that fits the driver: pip install 'pagesim[cuda13]'",
    ),
    "no GPU": (
        "import cupy; type(cupy.cuda.runtime).getDeviceCount = staticmethod(lambda: 0)",
        "backend cuda needs an NVIDIA GPU, and CuPy sees none; take backend: cost_model or reference",
    ),
    "no driver": (
        raising("getDeviceCount", "runtime.CUDARuntimeError('cudaErrorNoDevice: no CUDA-capable device is detected')"),
        "backend cuda needs an NVIDIA GPU, and CuPy sees none (cudaErrorNoDevice: no CUDA-capable device is detected); "
        "take backend: cost_model or reference",
    ),
    "CuPy for another CUDA": (
        raising("getDeviceCount", "runtime.CUDARuntimeError('cudaErrorInsufficientDriver: driver is too old')"),
        "backend cuda needs a driver that fits this CuPy, which is for CUDA 13 "
        "(cudaErrorInsufficientDriver: driver is too old); install the extra that fits the driver: cuda12 or cuda13",
    ),
    "an old GPU": (
        "import cupy; cupy.cuda.Device.compute_capability = '75'",
        "backend cuda needs a GPU of compute capability 8.0 or higher (Ampere, Ada, Hopper), not 7.5",
    ),
}


@pytest.mark.parametrize("case", MACHINES)
def test_a_machine_that_does_not_serve(case: str, tmp_path: Path) -> None:
    broken, sentence = MACHINES[case]
    done = run(tmp_path, broken)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


SETTINGS = {
    "a head size without a kernel": (
        "model.head_dim=72",
        "backend cuda has no kernel for head_dim 72; it has 64, 80, 96, 128, 256",
    ),
    "too many query heads": ("model.num_heads=34", "serves 1 to 16 query heads a KV head; 34 query heads over 2"),
    "a type": ("memory.dtype=float32", "computes in float16 or bfloat16, not in 'float32'; set memory.dtype"),
    "a block size": (
        "allocators.paged.block_size=48",
        "serves block sizes 1, 2, 4, ... 256, not 48; set the row's block_size",
    ),
}


@needs_emulation
@pytest.mark.parametrize("case", SETTINGS)
def test_sizes_that_have_no_kernel(case: str, tmp_path: Path) -> None:
    setting, sentence = SETTINGS[case]
    done = run(tmp_path, "", setting)
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


MEMORY = {
    "on the device": (
        "type(cupy.cuda.runtime).memGetInfo = staticmethod(lambda: (2**17, 2**30))",
        "of device memory and 128.0 KiB are free; lower memory.kv_cache",
    ),
    "pinned": ("cupy.cuda.PinnedMemory.LIMIT = 2**16", "of host memory cannot be pinned"),
    "without a compiler": (
        "def missing(module): raise RuntimeError('CuPy failed to load libnvrtc.so.13: OSError')\n"
        "cupy.RawModule.compile = missing",
        "which CuPy cannot load (CuPy failed to load libnvrtc.so.13: OSError); "
        "install it: pip install nvidia-cuda-nvrtc",
    ),
}


@needs_emulation
@pytest.mark.parametrize("case", MEMORY)
def test_memory_or_a_compiler_that_is_not_there(case: str, tmp_path: Path) -> None:
    broken, sentence = MEMORY[case]
    done = run(tmp_path, f"import cupy\n{broken}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


FAILS_LATER = """
import cupy
from pagesim_backends.cuda.backend import Buffers, Cuda

built, execute = [], Cuda.execute

def failing(self, step):
    if not self.pool.view(0).block_size == 8:
        return execute(self, step)
    built.append(step)
    if len(built) == 3:
        def empty(*arguments, **options):
            raise cupy.cuda.memory.OutOfMemoryError("out of memory allocating 4,096 bytes")
        Buffers.send = empty
    return execute(self, step)

Cuda.execute = failing
"""


@needs_emulation
def test_memory_that_runs_out_ends_one_run_and_keeps_the_others(tmp_path: Path) -> None:
    done = run(tmp_path, FAILS_LATER)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the GPU failed in a step of" in done.stdout + done.stderr
    assert "out of memory allocating 4,096 bytes" in done.stdout + done.stderr
    summary = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    kept = [dict(zip(summary[0].split(","), line.split(","), strict=True)) for line in summary[1:]]
    assert [(one["allocator"], one["finished"]) for one in kept] == [("max", "4")]
