"""The bytes of what a run leaves."""

from __future__ import annotations

from tests.support.experiments import Finished

TABLES = ("summary.csv", "summary.parquet")
RUN_TABLES = ("requests.parquet", "timeline.parquet", "memory.parquet", "steps.parquet")


def tables(finished: Finished) -> dict[str, bytes]:
    """Return the bytes of every table that a run leaves, by path."""
    paths = [finished.folder / name for name in TABLES]
    paths += [path for name in RUN_TABLES for path in sorted(finished.folder.glob(f"runs/*/{name}"))]
    return {str(path.relative_to(finished.folder)): path.read_bytes() for path in paths}
