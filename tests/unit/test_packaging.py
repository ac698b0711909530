"""What a stranger's environment needs of the package: nothing installed to import it, and nothing heavy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"simpy", "pandas", "pyarrow", "matplotlib", "seaborn", "scipy", "joblib", "hypothesis", "torch", "cupy"}


def run(*arguments: str, path: str) -> str:
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, cwd=ROOT / "tests"
    ).stdout


def test_it_is_imported_from_its_two_source_roots_without_anything_installed() -> None:
    code = "import pagesim, pagesim_backends; print(pagesim.__version__, pagesim.__file__)"
    version, file = run("-S", "-c", code, path=f"{ROOT}{os.pathsep}{ROOT / 'backends'}").split()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert Path(file) == ROOT / "pagesim" / "__init__.py"


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, pagesim; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(run("-c", code, path=f"{ROOT}{os.pathsep}{ROOT / 'backends'}").split())
    assert "pagesim" in loaded
    assert loaded & (HEAVY | {"numpy", "pydantic", "yaml", "pagesim_backends"}) == set()
