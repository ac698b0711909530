"""What all tests share: Hypothesis profiles, the folder of traces, and skipping what this machine cannot run."""

from __future__ import annotations

import importlib
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile(
    "deep", max_examples=3000, stateful_step_count=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci")


@cache
def why_no_gpu() -> str | None:
    """Return why a test on a GPU cannot run here, None if it can."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        return "needs CuPy (the extra cuda12 or cuda13)"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"needs an NVIDIA GPU ({error})"
    return None if count else "needs an NVIDIA GPU, and CuPy sees none"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what sits in ``gpu/``, and skip what is marked where there is no GPU."""
    for item in items:
        if item.path.is_relative_to(TESTS / "gpu"):
            item.add_marker(pytest.mark.gpu)
        if item.get_closest_marker("gpu") is not None and (reason := why_no_gpu()) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def traces_dir() -> Path:
    """Return the folder of published traces; skip where there is none."""
    named = os.environ.get("PAGESIM_TRACES")
    if not named:
        pytest.skip("PAGESIM_TRACES is not set: no folder of traces")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"PAGESIM_TRACES names {named}, which is no folder")
    return folder
