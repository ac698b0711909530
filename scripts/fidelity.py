"""Runs an experiment on a GPU and on the cost model, and prints the simulator's error beside every figure.

python scripts/fidelity.py experiments/gpu-quickstart.yaml --out fidelity.json

Each row of the experiment is run twice: with every step executed on the GPU and priced by the cost model as well,
and with the cost model alone. The first says how far each step's price is off, the second what becomes of that in
the figures of a whole run, where other durations lead to other batches.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from pagesim import experiment, experiment_file
from pagesim.errors import PagesimError
from pagesim.runs import Run
from pagesim_backends.paired import PARTS, Log, Paired

FIGURES: Final = (
    "utilization",
    "mean_batched_requests",
    "throughput_output_tokens_per_s",
    "normalized_latency_s_per_token",
    "ttft_p50_s",
    "tpot_p50_s",
)
LINES: Final = (("attention", "context_tokens"), ("copies", "copied_blocks"), ("swaps", "swapped_blocks"))


def compare(path: Path, sets: list[str]) -> list[dict[str, Any]]:
    """Return, for each run of an experiment, the error of each part, of steps and of figures."""
    found = []
    paired = experiment.plan(experiment_file.load(path, [*sets, "backend=pagesim_backends.paired:Paired"]))
    alone = experiment.plan(experiment_file.load(path, [*sets, "backend=cost_model"]))
    for one, other in zip(paired, alone, strict=True):
        run = Run(one)
        measured = run.execute().summary
        assert isinstance(run.engine.backend, Paired)
        log = run.engine.backend.log()
        simulated = Run(other).execute().summary
        found.append({"run": one.name} | _errors(log) | {"figures": _figures(measured, simulated)})
        print(_line(found[-1]), flush=True)
    return found


def _errors(log: Log) -> dict[str, Any]:
    off = log.step_errors()
    lines = {part: log.line(part, count) for part, count in LINES}
    return {
        "steps": len(off),
        "measured_s": {part: float(log.measured[part].sum()) for part in (*PARTS, "duration")},
        "priced_s": {part: float(log.priced[part].sum()) for part in (*PARTS, "duration")},
        "error": {part: log.error(part) for part in (*PARTS, "duration")},
        "step_error": {"median": float(np.median(off)), "p5": float(np.quantile(off, 0.05))}
        | {"p95": float(np.quantile(off, 0.95))},
        "lines": {part: vars(line) for part, line in lines.items() if line is not None},
    }


def _figures(measured: dict[str, Any], simulated: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: {"measured": measured[name], "simulated": simulated[name]} for name in FIGURES}


def _line(row: dict[str, Any]) -> str:
    parts = [f"{part} {error:+.0%}" for part, error in row["error"].items() if error is not None]
    steps = row["step_error"]
    figures = []
    for name, pair in row["figures"].items():
        if pair["measured"]:
            off = pair["simulated"] / pair["measured"] - 1
            figures.append(f"{name} {pair['measured']:.4g}, simulated {pair['simulated']:.4g} ({off:+.1%})")
    lines = [
        f"{part} {line['fixed'] * 1e6:.0f} us + {line['each'] * 1e9:.3g} ns each (rest {line['error']:.0%})"
        for part, line in row["lines"].items()
    ]
    return "\n  ".join(
        [
            f"{row['run']}: {row['steps']} steps",
            f"priced over measured: {', '.join(parts)}",
            f"a step: {steps['median']:+.1%}, 90 % of them between {steps['p5']:+.1%} and {steps['p95']:+.1%}",
            *([f"measured: {'; '.join(lines)}"] if lines else []),
            *figures,
        ]
    )


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="file for the errors, as JSON")
    options = parser.parse_args()
    try:
        found = compare(options.experiment, options.sets)
    except PagesimError as error:
        print(error, file=sys.stderr)
        return 2
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
