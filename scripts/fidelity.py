"""Runs an experiment on a GPU and on the cost model, and prints the simulator's error beside every figure.

python scripts/fidelity.py experiments/gpu-quickstart.yaml --out fidelity.json

Each row of the experiment is run with every step executed on the GPU and priced by the cost model as well, then with
the cost model alone, then with the cost model fitted to the measured steps. The first says how far each step's price
is off, the others what becomes of that in the figures of a whole run, where other durations lead to other batches.
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

Figures = dict[str, float]


def compare(path: Path, sets: list[str]) -> dict[str, Any]:
    """Return the errors of an experiment: of each row's parts, steps and figures, and the coefficients fitted to it.

    Raises PagesimError where the experiment cannot run, or not on this machine.
    """
    file = experiment_file.load(path, [*sets, "backend=pagesim_backends.paired:Paired"])
    experiment.check(file, experiment.plan(file))
    rows, logs, fitted = [], [], {}
    for spec in experiment.plan(file):
        run = Run(spec)
        measured = run.execute().summary
        backend = run.engine.backend
        assert isinstance(backend, Paired)
        logs.append(backend.log())
        fitted = Log.join(logs).fit(backend.model.coefficients)
        rows.append({"run": spec.name} | _errors(logs[-1]) | {"measured": _figures(measured)})
        print(f"{spec.name}: {len(logs[-1].step_errors())} steps on the GPU", file=sys.stderr, flush=True)
    options = ", ".join(f"{name}: {value}" for name, value in fitted.items())
    for column, backend_text in (("simulated", "cost_model"), ("fitted", f"{{name: cost_model, {options}}}")):
        specs = experiment.plan(experiment_file.load(path, [*sets, f"backend={backend_text}"]))
        for row, spec in zip(rows, specs, strict=True):
            row[column] = _figures(Run(spec).execute().summary)
    return {"fit": fitted, "rows": rows}


def _errors(log: Log) -> dict[str, Any]:
    off = log.step_errors()
    lines = {part: log.line(part, count) for part, count in LINES}
    return {
        "steps": len(off),
        "measured_s": {part: float(log.measured[part].sum()) for part in (*PARTS, "duration")},
        "priced_s": {part: float(log.priced[part].sum()) for part in (*PARTS, "duration")},
        "error": {part: log.error(part) for part in (*PARTS, "duration")},
        "step_error": {
            name: float(np.quantile(off, share)) for name, share in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95))
        },
        "lines": {part: vars(line) for part, line in lines.items() if line is not None},
    }


def _figures(summary: dict[str, Any]) -> Figures:
    return {name: summary[name] for name in FIGURES}


def show(found: dict[str, Any]) -> str:
    """Return the errors as text."""
    text = [f"fitted: {', '.join(f'{name} {value}' for name, value in found['fit'].items()) or 'nothing'}"]
    for row in found["rows"]:
        parts = ", ".join(f"{part} {error:+.0%}" for part, error in row["error"].items() if error is not None)
        steps = row["step_error"]
        text.append(f"{row['run']}: {row['steps']} steps; priced over measured: {parts}")
        text.append(f"  a step: {steps['p50']:+.1%}, 90 % of them between {steps['p5']:+.1%} and {steps['p95']:+.1%}")
        for part, line in row["lines"].items():
            fixed, each, rest = line["fixed"] * 1e6, line["each"] * 1e9, line["error"]
            text.append(f"  {part}: {fixed:.0f} us + {each:.3g} ns for each {dict(LINES)[part]} (rest {rest:.0%})")
        text += [f"  {_figure(row, name)}" for name in FIGURES if row["measured"][name]]
    return "\n".join(text)


def _figure(row: dict[str, Any], name: str) -> str:
    measured = row["measured"][name]
    others = (
        f"{column} {row[column][name]:.4g} ({row[column][name] / measured - 1:+.1%})"
        for column in ("simulated", "fitted")
    )
    return f"{name} {measured:.4g}, {', '.join(others)}"


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
    print(show(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
