"""Measures decode attention on a GPU in every form and division that the planner could consider, and more.

python scripts/sweep_decode_plans.py sweep.csv --batches results/gpu-h200/batches.json

What ``pagesim_backends/cuda/estimate.py`` is fitted to. A row is one plan; a batch's last line on the terminal says
how far the planner's own choice is from the best.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pagesim.errors import PagesimError

if TYPE_CHECKING:
    from pagesim_backends.cuda.attention import Decode
    from pagesim_backends.cuda.measure import Bench, Point
    from pagesim_backends.cuda.plan import DecodePlan
    from pagesim_backends.cuda.planner import Choice

Ints = npt.NDArray[np.int64]

MODELS: Final = (("32/8", 32, 8, 128), ("40/40", 40, 40, 128), ("32/2", 32, 2, 128))
UNIFORM: Final = ((1, 1024), (1, 16384), (4, 1024), (16, 1024), (16, 4096), (64, 1024), (64, 4096), (256, 1024))
RAGGED: Final = ((8, 3000), (32, 1472), (128, 1472), (512, 800))
TAILS: Final = tuple((share, factor) for share in (0.0, 0.1, 0.2, 0.35) for factor in (2, 4, 8))
MOST_BYTES: Final = 5 * 2**30
LEAST_BYTES: Final = 2**26
COLUMNS: Final = (
    "model",
    "point",
    "mib",
    "ceiling_us",
    "form",
    "num_items",
    "share",
    "factor",
    "items",
    "splits",
    "us",
)


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("--batches", type=Path, help="measure the batches of this file too")
    options = parser.parse_args()
    extra = json.loads(options.batches.read_text()) if options.batches is not None else []
    try:
        sweep(options.target, extra)
    except PagesimError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def sweep(target: Path, extra: list[dict[str, Any]]) -> None:
    """Measure all batches and write a row for each plan. Raises BackendError without a GPU."""
    from pagesim_backends.cuda import backend, measure
    from pagesim_backends.cuda.kernels import Addressing

    backend.check_device()
    clock = measure.Clock(5)
    with target.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for sizes in MODELS:
            model = measure.Model(*sizes)
            points = [point for point in _points(model, extra) if point.num_bytes <= MOST_BYTES]
            bench = measure.Bench(model, max(point.num_bytes for point in points) * 9 // 8 + LEAST_BYTES, clock)
            for point in points:
                ceiling, rows = bench.ceiling(point.num_bytes), list(_measure(bench, point))
                for choice, plan, time in rows:
                    name = f"{choice.form.num_warps}x{choice.form.blocks_per_sm}"
                    shown = (choice.num_items, choice.share, choice.factor, len(plan.items), plan.max_splits)
                    size = f"{point.num_bytes / 2**20:.1f}"
                    writer.writerow([model.name, point.name, size, f"{ceiling:.2f}", name, *shown, f"{time:.2f}"])
                file.flush()
                chosen = clock.median(bench.prepare(point, 16, Addressing.PAGED).launches)
                best = min(time for *_, time in rows)
                reached = f"best of {len(rows)} {best:.1f} ({ceiling / best:.0%})"
                told = f"ceiling {ceiling:.1f} us, {reached}, chosen {chosen:.1f} ({chosen / best - 1:+.1%})"
                print(f"{model.name} {point.name}: {told}", flush=True)
            del bench


def _points(model: Any, extra: list[dict[str, Any]]) -> list[Point]:
    from pagesim_backends.cuda.measure import Point

    found = [Point(f"{count}x{length}", model, (length,) * count) for count, length in UNIFORM]
    for seed, (count, mean) in enumerate(RAGGED):
        drawn = np.random.default_rng(seed).lognormal(np.log(mean) - 0.5, 1.0, count)
        lengths = np.clip(drawn, 16, 11_325).astype(int).tolist()
        found.append(Point(f"ragged {count} (mean {mean})", model, tuple(lengths)))
    return found + [Point(one["name"], model, tuple(one["lengths"])) for one in extra]


def _measure(bench: Bench, point: Point) -> Iterator[tuple[Choice, DecodePlan, float]]:
    """Yield every plan of a batch with its microseconds."""
    from pagesim_backends.cuda.kernels import CHUNK, Addressing
    from pagesim_backends.cuda.plan import Heads, split_evenly
    from pagesim_backends.cuda.planner import MORE, TARGETS, Choice, Planner

    model, lengths = bench.model, np.array(point.lengths, np.int64)
    heads = Heads.of(model.num_query_heads, model.num_kv_heads, model.head_dim)
    planner = Planner(heads, model.head_dim, bench.num_sms)
    chunks = -(-lengths // CHUNK)
    unsplit = len(lengths) * heads.per_sequence
    wanted = {0, *(int(one * bench.num_sms) for one in TARGETS), *(int(one * unsplit) for one in MORE)}
    seen: set[bytes] = set()
    for num_items in sorted(wanted):
        for share, factor in TAILS:
            splits = planner.splits(chunks, num_items, share, factor)
            if splits.tobytes() in seen:
                continue
            seen.add(splits.tobytes())
            for form in planner.forms:

                def cut(decode: Decode, tables: Ints, form: Any = form, splits: Ints = splits) -> DecodePlan:
                    return split_evenly(lengths, tables, decode.heads, form, splits)

                prepared = bench.prepare(point, 16, Addressing.PAGED, plan_by=cut)
                time = bench.clock.median(prepared.launches)
                yield Choice(form, num_items, share, factor), prepared.plan, time


if __name__ == "__main__":
    sys.exit(main())
