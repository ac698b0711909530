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
    run("test_pool.py", expected=12)


@pytest.mark.parametrize("case", ["fp16-80-4", "bf16-96-1"])
def test_prefill_attention(case: str) -> None:
    run(f"{PREFILL}::test_agrees_with_float64[{case}]", expected=1)


@pytest.mark.parametrize("case", ["fp16-80-1", "bf16-64-16"])
def test_decode_attention_of_blocks_small_and_large(case: str) -> None:
    run(f"{DECODE}::test_agrees_with_float64_for_every_block_size[{case}]", expected=1)


def test_scores_far_apart() -> None:
    run(f"{DECODE}::test_scores_far_apart_do_not_overflow", expected=1)


def test_steps_and_graphs() -> None:
    names = ("test_a_step_says_what_it_moved_and_read", "test_a_graph_is_replayed_while_lengths_change")
    run(*(f"{BACKEND}::{name}" for name in names), expected=2)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["max", "copy_on_write", "swapping", "plug-in"])
def test_inv_9_under_policies(policy: str) -> None:
    run(f"{BACKEND}::test_inv_9_outputs_agree_with_float64_under_every_policy[float16-{policy}]", expected=1)
