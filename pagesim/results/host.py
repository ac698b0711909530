"""Where results come from: this machine, its packages, the commit of pagesim."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

import pagesim

PACKAGES: Final = (
    "simpy",
    "pydantic",
    "PyYAML",
    "numpy",
    "pandas",
    "pyarrow",
    "joblib",
    "matplotlib",
    "seaborn",
    "torch",
    "cupy-cuda12x",
    "cupy-cuda13x",
)
"""Packages whose versions may bear on a result."""


def describe() -> dict[str, Any]:
    """Return what identifies the program and the machine, as plain data for the manifest."""
    return {
        "pagesim": pagesim.__version__,
        "commit": _commit(Path(pagesim.__file__).resolve().parents[1]),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "host": {
            "name": platform.node(),
            "system": f"{platform.system()} {platform.release()}".strip(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """Return the commit that is checked out in ``root``, with ``-dirty`` if files differ from it."""
    if not (root / ".git").exists():  # an installed package may lie inside somebody else's repository
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
