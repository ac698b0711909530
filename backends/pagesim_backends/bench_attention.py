"""Measures the GPU kernels and prints a table: ``python -m pagesim_backends.bench_attention --out FOLDER``.

Decode attention for uniform and ragged batches, as a share of the ceiling measured in the same process; its
contiguous twin; torch's scaled_dot_product_attention where torch is installed; block sizes; prefill; copies and
swaps; decode beside a swap; what a launch costs the host. Results go to ``results.json`` and ``decode.csv`` in
the folder, with a ``manifest.json`` that names GPU, driver and packages. ``--batches FILE`` measures the decode
steps of simulated runs too, which ``scripts/draw_decode_batches.py`` draws.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Sequence as Listing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pagesim.errors import PagesimError

if TYPE_CHECKING:
    from pagesim_backends.cuda.measure import Bench, Clock, DecodeFigures, Model, Point
    from pagesim_backends.cuda.measure_moves import BesideFigures

GIB: Final = 2**30
POOL_BYTES: Final = 64 * GIB
"""Of the pool that decode attention is measured in, at most half of the device: as large as a server's."""

LLAMA_UNIFORM: Final = (
    (1, 1024),
    (1, 16384),
    (1, 131072),
    (16, 1024),
    (16, 4096),
    (64, 1024),
    (64, 4096),
    (256, 16384),
)
OPT_UNIFORM: Final = ((32, 512), (32, 2048), (128, 2048))
RAGGED: Final = ((128, 1472, 0), (32, 1472, 1), (256, 500, 2), (64, 1472, 3))
"""(sequences, mean length, seed) of log-normal batches; sigma 1, at most 11,325 tokens."""


OTHERS: Final = (
    ("bf16", 32, 8, 128, True),
    ("head 64", 32, 8, 64, False),
    ("head 80", 32, 32, 80, False),
    ("head 96", 32, 32, 96, False),
    ("head 256", 16, 8, 256, False),
    ("group 8", 64, 8, 128, False),
    ("group 16", 32, 2, 128, False),
    ("head 256, group 8", 16, 2, 256, False),
)
"""Name, query heads, KV heads, head size and bf16 of other models."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m pagesim_backends.bench_attention", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder for the results")
    parser.add_argument("--batches", type=Path, help="measure the batches of this file too")
    parser.add_argument("--quick", action="store_true", help="small sizes only: does everything run?")
    options = parser.parse_args(arguments)
    try:
        measure_all(options.out, options.batches, quick=options.quick)
    except PagesimError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure_all(out: Path, batches: Path | None, *, quick: bool) -> None:
    """Measure everything, print tables and write the results. Raises BackendError without a GPU."""
    # Imported here, so that batches are drawn without a GPU.
    from pagesim_backends.cuda import backend, measure

    backend.check_device()
    clock = measure.Clock(repeats=1 if quick else 9)

    def bench_for(model: Model, points: Listing[Point]) -> Bench:
        if quick:
            return measure.Bench(model, 2**20, clock, rotate_bytes=2**16)
        largest = max(point.num_bytes for point in points) * 9 // 8
        return measure.Bench(model, max(largest, min(POOL_BYTES, backend.free_bytes() // 2)), clock)

    out.mkdir(parents=True, exist_ok=True)
    extra = json.loads(batches.read_text()) if batches is not None else []
    results: dict[str, Any] = {"decode": [], "block_sizes": [], "sdpa": {}, "prefill_tflops": {}, "shapes": []}
    results["moves"] = []
    for model, points in _points(extra, quick=quick):
        bench = bench_for(model, points)
        for point in points:
            figures = bench.decode(point)
            sdpa = None if quick or len(set(point.lengths)) > 1 else _sdpa(point, clock)
            results["decode"].append(asdict(figures))
            results["sdpa"][f"{model.name} {point.name}"] = sdpa
            print(_row(figures, sdpa), flush=True)
            _save(out, results)
        same = points[len(points) // 2]
        for block_size in (1, 16) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256):
            figures = bench.decode(same, block_size)
            results["block_sizes"].append(asdict(figures))
            print(f"block size {block_size:3d}: {_row(figures, None)}", flush=True)
        for tokens, stored in ((64, 64),) if quick else ((2048, 0), (2048, 6144), (512, 16384)):
            rates = {"paged": bench.prefill(tokens, stored)}
            if not stored and (sdpa := _sdpa_prefill(model, tokens, clock)) is not None:
                rates["sdpa"] = sdpa
            results["prefill_tflops"][f"{model.name} {tokens} after {stored}"] = rates
            shown = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
            print(f"{model.name}: prefill of {tokens} tokens after {stored}, Tflop/s: {shown}", flush=True)
        if model in (measure.LLAMA_3_8B, measure.SMALL):
            results |= _beside(bench, points, quick=quick)
        _save(out, results)
        del bench
    for sizes in () if quick else OTHERS:
        model = measure.Model(*sizes)
        points = [measure.Point(f"64x{length}", model, (length,) * 64) for length in (1024, 4096)]
        bench = bench_for(model, points)
        for point in points:
            figures = bench.decode(point)
            sdpa = _sdpa(point, clock)
            results["shapes"].append(asdict(figures))
            results["sdpa"][f"{model.name} {point.name}"] = sdpa
            print(_row(figures, sdpa), flush=True)
        _save(out, results)
        del bench
    for moved in _moves(quick=quick):
        results["moves"].append(asdict(moved))
        print(
            f"blocks of {moved.block_size} ({moved.block_kib:.0f} KiB, {moved.layout}): copies {moved.copy:.0f} GB/s, "
            f"swap out {moved.swap_out:.1f}, in {moved.swap_in:.1f}",
            flush=True,
        )
    _save(out, results)


def _save(out: Path, results: dict[str, Any]) -> None:
    """Write what has been measured so far: a run that is cut short keeps it."""
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "manifest.json").write_text(json.dumps(manifest(), indent=1) + "\n")
    with (out / "decode.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(results["decode"][0]))
        writer.writeheader()
        writer.writerows(results["decode"])


def manifest() -> dict[str, Any]:
    """Return what the figures were measured with."""
    import cupy

    runtime = cupy.cuda.runtime
    names = ("cupy-cuda13x", "cupy-cuda12x", "numpy", "torch")
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions() if dist.name}
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": runtime.getDeviceProperties(0)["name"].decode(),
        "multiprocessors": int(cupy.cuda.Device().attributes["MultiProcessorCount"]),
        "driver": _driver(),
        "cuda_driver": runtime.driverGetVersion(),
        "cuda_runtime": runtime.runtimeGetVersion(),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in names if name in installed},
        "command": " ".join(sys.argv),
    }


def _driver() -> str | None:
    """Return the version of the NVIDIA driver."""
    try:
        line = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return line.splitlines()[0].strip() if line.strip() else None


def _commit() -> str | None:
    """Return the commit of the checkout that this file is in."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _points(extra: Listing[dict[str, Any]], *, quick: bool) -> list[tuple[Model, list[Point]]]:
    import numpy as np

    from pagesim_backends.cuda.measure import LLAMA_3_8B, OPT_13B, SMALL, Point

    def uniform(model: Model, shapes: Listing[tuple[int, int]]) -> list[Point]:
        return [Point(f"{count}x{length}", model, (length,) * count) for count, length in shapes]

    def ragged(model: Model, count: int, mean: int, seed: int) -> Point:
        drawn = np.random.default_rng(seed).lognormal(np.log(mean) - 0.5, 1.0, count)
        return Point(f"ragged {count} (mean {mean})", model, tuple(np.clip(drawn, 16, 11_325).astype(int).tolist()))

    if quick:
        return [(SMALL, [*uniform(SMALL, [(2, 40)]), Point("ragged", SMALL, (17, 100, 5))])]
    found = []
    for model, shapes in ((LLAMA_3_8B, LLAMA_UNIFORM), (OPT_13B, OPT_UNIFORM)):
        points = uniform(model, shapes) + [ragged(model, *shape) for shape in RAGGED]
        points += [Point(one["name"], model, tuple(one["lengths"])) for one in extra]
        found.append((model, [point for point in points if point.num_bytes < 20 * GIB]))
    return found


def _row(figures: DecodeFigures, sdpa: float | None) -> str:
    ceiling = figures.ceiling_us

    def share(time: float) -> str:
        return f"{time:8.1f} us {ceiling / time:4.0%}"

    row = f"{figures.model:11s} {figures.point:24s} {figures.mib:7.0f} MiB  ceiling {ceiling:7.1f} us"
    row += f" (early {figures.early_ceiling_us:.1f})  paged {share(figures.paged_us)}"
    row += f"  ordinary launch {share(figures.ordinary_us)}  contiguous {share(figures.contiguous_us)}"
    row += f" (paged {figures.paged_us / figures.contiguous_us - 1:+.1%})"
    if sdpa is not None:
        row += f"  sdpa {share(sdpa)}"
    return (
        f"{row}  {figures.form} {figures.items} items, {figures.max_splits} splits, planned in {figures.plan_us:.0f} us"
    )


def _sdpa(point: Point, clock: Clock) -> float | None:
    """Return the microseconds of torch's attention over contiguous, unpadded memory; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    model, count, length = point.model, len(point.lengths), point.lengths[0]
    sets = max(1, -(-256 * 2**20 // point.num_bytes) + 1)
    options = {"device": "cuda", "dtype": torch.bfloat16 if model.bf16 else torch.float16}
    query = torch.randn(count, model.num_query_heads, 1, model.head_dim, **options)
    shape = (count, model.num_kv_heads, length, model.head_dim)
    pairs = [(torch.randn(shape, **options), torch.randn(shape, **options)) for _ in range(sets)]
    attention = torch.nn.functional.scaled_dot_product_attention
    grouped = model.num_query_heads != model.num_kv_heads

    def attend() -> None:
        for key, value in pairs:
            attention(query, key, value, enable_gqa=grouped)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        attend()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attend()
    found: list[float] = []
    for _ in range(clock.repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) * 1e3 / sets)
    graph.reset()
    pairs.clear()
    torch.cuda.empty_cache()
    return sorted(found)[len(found) // 2]


def _sdpa_prefill(model: Model, num_tokens: int, clock: Clock) -> float | None:
    """Return the Tflop/s of torch's causal attention for a prompt; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    options = {"device": "cuda", "dtype": torch.bfloat16 if model.bf16 else torch.float16}
    heads = (model.num_query_heads, model.num_kv_heads, model.num_kv_heads)
    query, key, value = (torch.randn(1, count, num_tokens, model.head_dim, **options) for count in heads)
    grouped = model.num_query_heads != model.num_kv_heads
    found: list[float] = []
    for _ in range(clock.repeats + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(5):
            torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 5e3)
    pairs = num_tokens * (num_tokens + 1) // 2
    return 4 * pairs * model.num_query_heads * model.head_dim / sorted(found)[len(found) // 2] / 1e12


def _beside(bench: Bench, points: list[Point], *, quick: bool) -> dict[str, Any]:
    """Measure decode beside swaps of blocks of 2 MiB, 128 KiB and 32 KiB, and what a launch costs the host."""
    from pagesim_backends.cache_shape import CacheShape
    from pagesim_backends.cuda import measure_moves

    point = max(points, key=lambda point: point.num_bytes if point.num_bytes < 2 * GIB else 0)
    sizes = ((2048, 16, 32), (32768, 1, 32), (131072, 1, 8))  # blocks, block size, layers: 4 GiB of Llama-3-8B
    shapes = [CacheShape(count, size, 2 * count, layers, 32, 8, 128) for count, size, layers in sizes]
    rows = []
    for shape in [CacheShape(32, 16, 64, 2, 8, 2, 64)] if quick else shapes:
        beside = measure_moves.decode_beside_swaps(bench, point, shape)
        print(f"decode ({beside.point}) alone {beside.alone_us:.1f} us a layer; {_slower(beside)}", flush=True)
        rows.append(asdict(beside))
    direct, replayed = measure_moves.launch_overhead(bench, points[0])
    print(f"a launch costs the host {direct:.1f} us, replayed in a graph {replayed:.2f} us", flush=True)
    return {"decode_beside_swaps": rows, "launch_us": direct, "graph_launch_us": replayed}


def _slower(beside: BesideFigures) -> str:
    ways = (("out", beside.out_us, beside.out_gb_per_s), ("in", beside.in_us, beside.in_gb_per_s))
    shown = (
        f"{way} {time / beside.alone_us - 1:+.1%} at {rate:.1f} GB/s" if time is not None else f"{way} ended too early"
        for way, time, rate in ways
    )
    return f"beside swaps of blocks of {beside.block_kib:.0f} KiB: {', '.join(shown)}"


def _moves(*, quick: bool) -> list[Any]:
    """Measure copies and swaps of blocks of several sizes: of Llama-3-8B, and small ones of a part of it."""
    from pagesim_backends.cache_shape import CacheShape
    from pagesim_backends.cuda import measure_moves

    if quick:
        return [measure_moves.moves(CacheShape(64, 16, 32, 2, 8, 2, 64), 16, repeats=1)]
    found = []
    for block_size in (1, 2, 4, 8, 16, 64):
        num_blocks = 65536 // block_size  # 8 GiB
        shape = CacheShape(num_blocks, block_size, num_blocks // 4, 32, 32, 8, 128)
        found.append(measure_moves.moves(shape, num_blocks // 8))
    found.append(measure_moves.moves(CacheShape(65536, 1, 16384, 32, 32, 8, 128), 8192, contiguous=True))
    for num_layers in (4, 8, 16):  # of a pipeline's stage: blocks of 16 to 64 KiB
        shape = CacheShape(2**19 // num_layers, 1, 2**17 // num_layers, num_layers, 32, 8, 128)
        found.append(measure_moves.moves(shape, 2**16 // num_layers))
    return found


if __name__ == "__main__":
    sys.exit(main())
