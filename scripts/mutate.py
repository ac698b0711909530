"""How many small mistakes in the code that decides about memory does the test suite notice?

    python -m scripts.mutate                        # 60 mutants of all that decides on memory
    python -m scripts.mutate --seed 1 --count 200 --jobs 2 --out results/mutation

Each mutant (see mutants.py) is written into a copy of the tree in a temporary folder, never into the checkout, and the
fast part of the suite is run there, the tests nearest to the changed file first. A mutant counts as caught when a test
fails, or takes so long that it looks endless. Survivors are printed as diffs; what is known about one, such as that it
changes nothing, is looked up in mutants_alive.yaml by file and lines. Ends with 1 if nothing is known of one.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import yaml

from scripts.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("pagesim/blocks.py", "pagesim/allocators/*.py", "pagesim/schedulers/*.py", "pagesim/fastlane/*.py")
COPIED = (
    "pagesim",
    "backends",
    "tests",
    "experiments",
    "scripts",
    "docs",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
)
KNOWN = ROOT / "scripts" / "mutants_alive.yaml"

NEAREST = {
    "pagesim/blocks.py": ["tests/unit/test_blocks.py"],
    "pagesim/allocators": [
        "tests/unit/test_allocators.py",
        "tests/unit/test_allocator_edges.py",
        "tests/unit/test_reservations.py",
        "tests/unit/test_placement.py",
        "tests/property/test_copy_on_write_model.py",
    ],
    "pagesim/schedulers": [
        "tests/unit/test_schedulers.py",
        "tests/unit/test_work_left.py",
        "tests/unit/test_plain_policy.py",
    ],
    "pagesim/fastlane": [
        "tests/benchmark/test_counts.py",
        "tests/property/test_fast_forward.py",
        "tests/property/test_core_oracle.py",
    ],
}
"""The tests that are about a file."""

SUITE = [
    "tests/golden",
    "tests/unit/test_schedulers.py",
    "tests/unit/test_allocators.py",
    "tests/unit/test_allocator_edges.py",
    "tests/unit/test_account.py",
    "tests/unit/test_recorder.py",
    "tests/property/test_core_oracle.py",
    "tests/property/test_fast_forward.py",
    "tests/property/test_core_invariants.py",
    "tests/property/test_core_bounds.py",
    "tests/property/test_copy_on_write_model.py",
    "tests/property/test_contract.py",
]
"""What is run after them, in this order."""

PLUGIN = "mutant_profile"
PLUGIN_TEXT = '''\
"""Give up on a test that looks endless, and shrink nothing: that it fails is enough."""

import os
import signal

import pytest
from hypothesis import Phase, settings

settings.register_profile(
    "mutant", derandomize=True, database=None, deadline=None, phases=[Phase.explicit, Phase.generate]
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    signal.signal(signal.SIGALRM, lambda *_: os._exit(99))
    signal.alarm({limit})
    try:
        return (yield)
    finally:
        signal.alarm(0)
'''


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        by: the test that caught it; None if none did.
        reason: why a survivor may live, as far as that is known.
    """

    mutant: Mutant
    by: str | None
    seconds: float
    reason: str | None = None


class Tree:
    """A copy of the checkout in a folder that is deleted in the end.

    Args:
        source: what is copied.
        folder: where it goes.
        limit: seconds after which a test counts as endless.
    """

    def __init__(self, source: Path, folder: Path, limit: int) -> None:
        self.folder = folder
        for name in COPIED:
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                folder.mkdir(exist_ok=True)
                shutil.copy(source / name, folder / name)
        (folder / f"{PLUGIN}.py").write_text(PLUGIN_TEXT.replace("{limit}", str(limit)), encoding="utf-8")
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(folder / "backends")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._check_imported()

    def run(self, tests: list[str]) -> str | None:
        """Run tests up to the first that fails, and return its name; None if all pass."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
        command += ["-p", PLUGIN, "--hypothesis-profile=mutant", "-m", "not slow", *tests]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return None
        if done.returncode == 99:
            return "a test that does not end"
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        if done.returncode not in (1, 2) or not failed:
            raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return failed[0].split(" - ")[0]

    @contextmanager
    def having(self, mutant: Mutant) -> Iterator[None]:
        """Keep the mistake in the copy for a while."""
        path = self.folder / mutant.path
        path.write_text(mutant.text, encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(mutant.original, encoding="utf-8")

    def _check_imported(self) -> None:
        """Make sure that it is the copy that is imported, not the checkout."""
        code = (
            "import pagesim, pagesim_backends; print(pagesim.__file__, list(pagesim_backends.__path__)[0], sep='\\n')"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd="/", env=self.environment, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            if not Path(line).is_relative_to(self.folder):
                raise RuntimeError(f"the copy would import {line}, not what lies in {self.folder}")


def main() -> int:
    """Plant, run and report; return 1 if a survivor has no known reason."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mutate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="which mutants are sampled")
    parser.add_argument("--count", type=int, default=60, help="how many")
    parser.add_argument("--jobs", type=int, default=1, help="how many at the same time")
    parser.add_argument("--limit", type=int, default=30, help="seconds after which a test counts as endless")
    parser.add_argument("--target", action="append", help="a file, or a pattern; by default all that decides on memory")
    parser.add_argument("--out", type=Path, help="a folder for the report")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pagesim-mutants-") as temporary:
        folder = Path(temporary).resolve()
        first = Tree(ROOT, folder / "0", arguments.limit)
        trees = [first, *(Tree(first.folder, folder / str(n), arguments.limit) for n in range(1, arguments.jobs))]
        targets = [path for pattern in arguments.target or TARGETS for path in first.folder.glob(pattern)]
        paths = sorted({str(path.relative_to(first.folder)) for path in targets})
        population = [mutant for path in paths for mutant in mutants(first.folder, path)]
        planted = random.Random(arguments.seed).sample(population, min(arguments.count, len(population)))
        print(f"{len(planted)} of {len(population)} mutants of {len(paths)} files, seed {arguments.seed}", flush=True)
        verdicts = _run(planted, trees)
    report = _report(verdicts, len(population), arguments.seed)
    print(f"\n{report}", end="")
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "README.md").write_text(report, encoding="utf-8")
    return int(any(verdict.by is None and verdict.reason is None for verdict in verdicts))


def _run(planted: list[Mutant], trees: list[Tree]) -> list[Verdict]:
    """Run the suite on every mutant, one in each tree at a time; and first on none."""
    started = time.perf_counter()
    tests = sorted({test for nearest in NEAREST.values() for test in nearest} - set(SUITE))
    if (failed := trees[0].run([*tests, *SUITE])) is not None:
        raise SystemExit(f"the suite fails without a mutant: {failed}")
    print(f"the suite passes without one, in {time.perf_counter() - started:.0f} s", flush=True)
    reasons, idle = _reasons(), Queue[Tree]()
    for tree in trees:
        idle.put(tree)

    def judge(numbered: tuple[int, Mutant]) -> Verdict:
        number, mutant = numbered
        tree = idle.get()
        started = time.perf_counter()
        try:
            with tree.having(mutant):
                by = tree.run(_tests(mutant))
        finally:
            idle.put(tree)
        seconds = time.perf_counter() - started
        said = "SURVIVED" if by is None else f"caught by {by.removeprefix('FAILED ')}"
        print(f"{number:3d} {mutant}: {said} ({seconds:.0f} s)", flush=True)
        return Verdict(mutant, by, seconds, reasons.get((mutant.path, *mutant.change)) if by is None else None)

    with ThreadPoolExecutor(len(trees)) as executor:
        return list(executor.map(judge, enumerate(planted, 1)))


def _tests(mutant: Mutant) -> list[str]:
    nearest = next(tests for where, tests in NEAREST.items() if mutant.path.startswith(where))
    return [*nearest, *(test for test in SUITE if test not in nearest)]


def _reasons() -> dict[tuple[str, ...], str]:
    """Return (path, *lines that differ) -> what is known about it."""
    if not KNOWN.is_file():
        return {}
    known = yaml.safe_load(KNOWN.read_text(encoding="utf-8")) or []
    return {(entry["path"], *entry["change"]): str(entry["reason"]).strip() for entry in known}


def _report(verdicts: list[Verdict], num_possible: int, seed: int) -> str:
    alive = [verdict for verdict in verdicts if verdict.by is None]
    caught = len(verdicts) - len(alive)
    num_told_apart = caught + sum(verdict.reason is None for verdict in alive)
    lines = [
        "# Mutants",
        "",
        f"`python -m scripts.mutate --seed {seed} --count {len(verdicts)}`: {len(verdicts)} of {num_possible} mutants",
        "that there are of the allocators, the block pool, the schedulers and the fast lane.",
        "",
        f"Caught / planted: **{caught} / {len(verdicts)}** ({caught / len(verdicts):.1%}).",
        f"Of those that are not known to change nothing: {caught} / {num_told_apart} ({caught / num_told_apart:.1%}).",
        "",
        "## Survivors" if alive else "None survived.",
    ]
    for verdict in alive:
        lines += ["", f"### {verdict.mutant}", "", "```diff", verdict.mutant.diff, "```", ""]
        lines.append(verdict.reason or "No reason is known: a test is missing.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
