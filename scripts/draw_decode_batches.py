"""Simulates experiments and writes the batches of some of their decode steps, to be measured on a GPU.

python scripts/draw_decode_batches.py batches.json experiments/azure-conversation.yaml --allocator paged
python -m pagesim_backends.bench_attention --batches batches.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pagesim import experiment, experiment_file
from pagesim.backend import Step, StepResult
from pagesim.errors import ConfigError, PagesimError
from pagesim.runs import Run


class Sampler:
    """Keeps the lengths of every ``stride``-th step that decodes, and doubles the stride when it holds too many."""

    LIMIT = 4096

    def __init__(self) -> None:
        self.stride = 1
        self.kept: list[list[int]] = []
        self._seen = 0

    def note(self, step: Step, result: StepResult, now: int) -> None:
        """Look at a step; its sequences attend to what they have stored and to the new token."""
        if not step.num_decodes:
            return
        self._seen += 1
        if self._seen % self.stride:
            return
        self.kept.append([sequence.num_stored + 1 for sequence in step.decodes])
        if len(self.kept) == self.LIMIT:
            self.kept = self.kept[1::2]
            self.stride *= 2


def draw(path: Path, allocator: str, count: int) -> list[dict[str, Any]]:
    """Run one row of an experiment and return ``count`` batches, evenly over the second half of the run.

    Raises ConfigError if the experiment has no such row, and the experiment's own errors.
    """
    specs = [spec for spec in experiment.plan(experiment_file.load(path)) if spec.allocator == allocator]
    if not specs:
        raise ConfigError(f"{path}: there is no allocator {allocator!r}")
    sampler = Sampler()
    run = Run(specs[0])
    run.engine.on_step = sampler.note
    run.engine.run()
    half = len(sampler.kept) // 2
    chosen = [sampler.kept[half + (len(sampler.kept) - half) * index // count] for index in range(count)]
    return [{"name": f"{path.stem} {index}", "lengths": lengths} for index, lengths in enumerate(chosen)]


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("experiments", type=Path, nargs="+")
    parser.add_argument("--allocator", default="paged", help="the row that is run")
    parser.add_argument("--count", type=int, default=4, help="batches of each experiment")
    options = parser.parse_args()
    try:
        found = [batch for path in options.experiments for batch in draw(path, options.allocator, options.count)]
    except PagesimError as error:
        print(error, file=sys.stderr)
        return 2
    options.target.write_text(json.dumps(found) + "\n")
    for batch in found:
        print(f"{batch['name']}: {len(batch['lengths'])} sequences, {sum(batch['lengths'])} tokens")
    return 0


if __name__ == "__main__":
    sys.exit(main())
