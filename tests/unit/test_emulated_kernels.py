"""Some of the tests of ``tests/gpu``, without a GPU: the kernels run on the CPU, see ``tests/emulation``.

All of them run the same way: ``PYTHONPATH=tests/emulation pytest -m gpu tests/gpu``.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler (g++)"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="needs a host compiler with 16-bit floats (x86-64)"),
]

DECODE, PREFILL, BACKEND = (f"test_{name}.py" for name in ("decode_attention", "prefill_attention", "backend"))


def run(*names: str, expected: int) -> None:
    """Run tests of ``tests/gpu`` in a process of their own, whose ``cupy`` is the emulation."""
    path = os.pathsep.join([str(ROOT / "tests" / "emulation"), str(ROOT), str(ROOT / "backends")])
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, *(f"tests/gpu/{name}" for name in names)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{expected} passed in", done.stdout, re.MULTILINE), done.stdout


def test_moves_and_drawn_tokens() -> None:
    run("test_pool.py", expected=17)


@pytest.mark.parametrize("case", ["fp16-80-4", "bf16-96-1"])
def test_prefill_attention(case: str) -> None:
    run(f"{PREFILL}::test_agrees_with_float64[{case}]", expected=1)


@pytest.mark.parametrize("case", ["fp16-80-1", "bf16-64-16"])
def test_decode_attention_of_blocks_small_and_large(case: str) -> None:
    run(f"{DECODE}::test_agrees_with_float64_for_every_block_size[{case}]", expected=1)


def test_scores_far_apart() -> None:
    run(f"{DECODE}::test_scores_far_apart_do_not_overflow", expected=1)


def test_steps_and_graphs() -> None:
    names = (
        "test_a_step_says_what_it_moved_and_read",
        "test_a_graph_is_replayed_while_lengths_change",
        "test_plans_that_are_tried_leave_no_trace",
    )
    run(*(f"{BACKEND}::{name}" for name in names), expected=3)


def test_the_benchmark_command() -> None:
    run("test_benchmark.py", expected=8)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["max", "copy_on_write", "swapping", "plug-in"])
def test_inv_9_under_policies(policy: str) -> None:
    run(f"{BACKEND}::test_inv_9_outputs_agree_with_float64_under_every_policy[float16-{policy}]", expected=1)


EXPERIMENT = """
name: emulated
model: {num_layers: 2, num_heads: 4, num_kv_heads: 2, head_dim: 64, hidden_size: 256, ffn_size: 512,
        vocab_size: 1000, num_parameters: 2000000, max_position: 4096}
device: h200
backend: {name: cuda, tune: false}
memory: {kv_cache: 160 KiB, host_kv_cache: 1 MiB}
workload:
  num_requests: 8
  arrivals: {process: poisson, rate: 20000}
  lengths:
    prompt: {distribution: lognormal, mean: 30, cv: 0.8, high: 60}
    output: {distribution: lognormal, mean: 12, cv: 0.8, high: 20}
scheduler: {policy: chunked, max_num_seqs: 16, max_num_batched_tokens: 128, max_model_len: 80}
allocators:
  max:   {policy: contiguous, reserve: max}
  swap:  {policy: swapping, block_size: 8, preemption: swap}
baseline: max
measure: {window: all}
ideal: false
"""


def test_an_experiment_runs_on_the_gpu_backend(tmp_path: Path) -> None:
    (tmp_path / "emulated.yaml").write_text(EXPERIMENT)
    path = os.pathsep.join([str(ROOT / "tests" / "emulation"), str(ROOT), str(ROOT / "backends")])
    start = "from pagesim.cli import main; main()"
    command = [sys.executable, "-c", start, "run", "emulated.yaml", "--out", "out", "--jobs", "1", "--no-report"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "out" / "summary.csv").read_text().splitlines()
    rows = [dict(zip(summary[0].split(","), line.split(","), strict=True)) for line in summary[1:]]
    assert [(row["allocator"], row["backend"], row["finished"]) for row in rows] == [
        ("max", "cuda", "8"),
        ("swap", "cuda", "8"),
    ]
    assert int(rows[1]["swapped_out_bytes"]) > 0
