"""The benchmark command: that it runs, and that what it writes and prints says what was measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cupy", reason="needs CuPy (the extra cuda12 or cuda13)")


def test_the_command_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pagesim_backends import bench_attention

    assert bench_attention.main(["--quick", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for words in ("ceiling", "ordinary launch", "contiguous", "prefill", "beside swaps", "a launch costs", "copies"):
        assert words in printed
    with (tmp_path / "decode.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["point"] for row in rows] == ["2x40", "ragged"]
    for row in rows:
        times = {name: float(value) for name, value in row.items() if name.endswith("_us")}
        assert len(times) == 6
        assert all(time > 0 for time in times.values())
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"decode", "block_sizes", "prefill_tflops", "moves", "decode_beside_swaps", "launch_us"} <= set(results)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {"gpu", "driver", "commit", "packages", "command"} <= set(manifest)


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize("block_size", [1, 16, 128])
def test_layers_of_the_measured_pool_lie_apart(block_size: int, contiguous: bool) -> None:
    """Every slot of every layer is another place of the pool: a benchmark that read some twice would flatter."""
    from pagesim_backends.cuda import measure

    bench = measure.Bench(measure.SMALL, 2**20, measure.Clock(1))
    size = bench.data.nbytes // 2
    start = int(bench.data.data.ptr)
    block, token = np.divmod(np.arange(2**20 // (2 * measure.SMALL.token_bytes)), block_size)
    seen = []
    for view in bench.views(block_size, 2, contiguous=contiguous):
        for side in (view.key, view.value):
            seen.append((side - start) // 2 + block * view.block_stride + token * view.token_stride)
    rows = np.sort(np.concatenate(seen))
    assert rows[0] >= 0
    assert rows[-1] + view.token_stride <= size
    assert (np.diff(rows) >= view.token_stride).all()


def test_a_batch_that_does_not_fit_the_pool_is_refused() -> None:
    from pagesim.errors import BackendError
    from pagesim_backends.cuda import measure
    from pagesim_backends.cuda.kernels import Addressing

    bench = measure.Bench(measure.SMALL, 2**20, measure.Clock(1))
    point = measure.Point("3x1024", measure.SMALL, (1024,) * 3)
    with pytest.raises(BackendError, match="3x1024 needs 192 blocks of 16 and the pool has 128"):
        bench.prepare(point, 16, Addressing.PAGED)
