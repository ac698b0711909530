"""The guide's code and experiment are run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pagesim

GUIDE = Path(__file__).parents[2] / "docs" / "write-an-allocator.md"


def block(language: str, containing: str) -> str:
    """Return the one fenced block of the guide that is in ``language`` and contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return str(found)


def test_the_guides_allocator_is_compared_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "doubling.py").write_text(block("python", "class Doubling"), encoding="utf-8")
    experiment = tmp_path / "mine.yaml"
    experiment.write_text(block("yaml", "doubling:Doubling"), encoding="utf-8")
    results = pagesim.run(experiment, out=tmp_path / "out", sets=["workload.num_requests=60"])
    summary = results.summary
    assert list(summary["allocator"]) == ["paged", "doubling", "ideal"]
    assert list(summary["finished"]) == [60, 60, 60]
    # Doubling holds blocks that it does not need yet, or never will.
    paged, doubling, _ = (summary["internal"] + summary["reserved"]).tolist()
    assert doubling > 3 * paged


def test_the_readme_shows_the_same_allocator() -> None:
    readme = (GUIDE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert block("python", "class Doubling") in readme
