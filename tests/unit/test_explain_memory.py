"""Maps of the pool and their snapshots over a run: every slot stands where the account says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pagesim
from pagesim import experiment_file, poolmap
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.paged import Paged
from pagesim.blocks import BlockPool
from pagesim.experiment import plan
from pagesim.memorylog import MAX_SNAPSHOTS, NO_OWNER, SHARED_BIT
from pagesim.report.memory_view import as_json, memory_view
from pagesim.report.rows import Rows
from pagesim.results import Results
from pagesim.runs import Run
from tests.support.sequences import fork, make_request, make_sequence, store

EXPERIMENT: dict[str, Any] = {
    "name": "snapshots",
    "model": "opt-13b",
    "device": "a100-40gb",
    "memory": {"kv_cache": "512 MiB"},
    "workload": {
        "num_requests": 80,
        "arrivals": {"process": "poisson", "rate": 6.0},
        "lengths": {
            "prompt": {"distribution": "uniform", "low": 8, "high": 80},
            "output": {"distribution": "uniform", "low": 8, "high": 60},
        },
        "sampling": {"n": 2},
    },
    "scheduler": {"max_num_seqs": 32, "max_num_batched_tokens": 512, "max_model_len": 256},
    "allocators": {"max": {"policy": "contiguous"}, "paged": {"policy": "paged"}, "cow": {"policy": "copy_on_write"}},
    "seeds": [0, 1],
}


def marks(slots: poolmap.SlotMap) -> str:
    """Return the kinds of all slots, a letter each."""
    return "".join("_~xr+Lc"[code] for code in slots.kind)


def test_a_block_table_out_of_order_fills_its_blocks() -> None:
    allocator = Paged(BlockPool(5, 4))
    other, sequence = make_sequence(4), make_sequence(6, 3)
    store(allocator, other, 4)
    store(allocator, sequence, 6)
    sequence.block_table.reverse()
    slots = poolmap.slot_map(allocator.pool, [sequence], 22, {sequence: 1})
    assert marks(slots) == "ccccL" + "L+rLLLL" + "_" * 8 + "~~"
    assert slots.owner.tolist() == [-1] * 4 + [0] * 8 + [-1] * 10
    assert slots.sharers.tolist() == [1] * 12 + [0] * 10


def test_a_reservation_is_reserved_internal_and_external() -> None:
    allocator = Contiguous(BlockPool(64, 1), max_model_len=24)
    sequence = make_sequence(10, 6)
    store(allocator, sequence, 10)
    assert marks(poolmap.slot_map(allocator.pool, [sequence], 64)) == "L" * 10 + "r" * 5 + "x" * 9 + "~" * 8 + "_" * 32


def test_a_shared_slot_is_live_if_any_sharer_has_stored_it() -> None:
    allocator = CopyOnWrite(BlockPool(4, 4))
    parent, child = make_request(6, 4, num_sequences=2).sequences
    store(allocator, parent, 6)
    fork(allocator, parent, child)
    slots = poolmap.slot_map(allocator.pool, [parent, child], 16)
    assert marks(slots) == "LLLLLLrr" + "_" * 8
    assert slots.sharers.tolist() == [2] * 8 + [0] * 8
    assert set(slots.owner.tolist()) == {0, -1}


@pytest.mark.parametrize(("num_slots", "per_cell"), [(16, 1), (100, 8), (7, 8), (4096, 32)])
def test_a_sample_takes_one_slot_of_every_run(num_slots: int, per_cell: int) -> None:
    places = poolmap.sample(num_slots, per_cell)
    assert (places // per_cell == np.arange(-(-num_slots // per_cell))).all()
    if num_slots > 1000:
        assert len(set((places % per_cell).tolist())) > per_cell // 2


def test_the_map_agrees_with_the_account_at_every_step(tmp_path: Path) -> None:
    for spec in plan(experiment_file.from_dict(EXPERIMENT, tmp_path)):
        if spec.seed:
            continue
        run = Run(spec)
        seen = 0

        def look(step: object, result: object, now: int, run: Run = run) -> None:
            nonlocal seen
            seen += 1
            sequences = [s for request in run.scheduler.running for s in request.sequences if s.block_table]
            counts = np.bincount(
                poolmap.slot_map(run.scheduler.pool, sequences, run.sizing.num_slots).kind, minlength=7
            )
            account = run.account
            assert counts[poolmap.LIVE] == account.live
            assert counts[poolmap.RESERVED] == account.useful - account.live
            assert counts[poolmap.INTERNAL] == account.internal
            assert counts[poolmap.EXTERNAL] == account.external + account.tail
            assert counts[poolmap.FREE] == account.free

        run.engine.on_step = look
        run.engine.run()
        assert seen > 100


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return pagesim.run(EXPERIMENT, out=tmp_path_factory.mktemp("snapshots") / "r")


def test_snapshots_are_kept_of_the_first_seed_of_small_pools(results: Results, tmp_path: Path) -> None:
    kept = sorted(path.parent.name for path in results.folder.rglob("memory.parquet"))
    assert kept == ["cow-seed0", "ideal-seed0", "max-seed0", "paged-seed0"]
    without = pagesim.run(EXPERIMENT, sets=["measure.memory_view=false"], out=tmp_path / "r")
    assert not list(without.folder.rglob("memory.parquet"))
    assert (without.folder / "summary.csv").read_bytes() == (results.folder / "summary.csv").read_bytes()


def test_inv_6_the_same_seed_gives_the_same_snapshots(results: Results, tmp_path: Path) -> None:
    again = pagesim.run(EXPERIMENT, sets=["seeds=[0]"], out=tmp_path / "r")
    for run in again.runs:
        name = f"runs/{run}/memory.parquet"
        assert (again.folder / name).read_bytes() == (results.folder / name).read_bytes()


def test_snapshots_lie_on_one_grid_and_add_up(results: Results) -> None:
    widths = {}
    for name in ("max", "paged", "cow", "ideal"):
        table = pq.read_table(results.folder / f"runs/{name}-seed0/memory.parquet").to_pandas()
        ticks = np.rint(table["t_s"].to_numpy() * 1e12).astype(np.int64)
        widths[name] = int(ticks[0])
        assert (ticks == widths[name] * np.arange(1, len(ticks) + 1)).all()
        assert MAX_SNAPSHOTS // 4 < len(ticks) <= MAX_SNAPSHOTS
        kinds = [column for column in table.columns if column.endswith("_slots") and column != "num_slots"]
        assert (table[kinds].sum(axis=1) == table["num_slots"]).all()
        for kind, owner in zip(table["kind"], table["owner"], strict=True):
            codes, owners = np.frombuffer(kind, np.uint8), np.frombuffer(owner, "<u4")
            assert len(codes) == len(owners) == table["num_slots"][0]
            assert ((owners == NO_OWNER) == np.isin(codes, [poolmap.FREE, poolmap.CACHED])).mean() > 0.9
            if name == "paged":
                assert not (codes & SHARED_BIT).any()
        timeline = results.timeline(f"{name}-seed0")
        mean = float((timeline["live"] * timeline["width_s"]).sum() / timeline["width_s"].sum())
        assert table["live_slots"].mean() / table["num_slots"][0] == pytest.approx(mean, abs=0.05)
    smallest = min(widths.values())
    assert all((width // smallest).bit_count() == 1 and not width % smallest for width in widths.values())


def test_the_page_gets_one_run_of_each_row_on_one_clock(results: Results) -> None:
    view = memory_view(results, Rows.of(results))
    assert view is not None
    assert [row["name"] for row in view["rows"]] == ["max", "paged", "cow", "ideal"]
    assert view["times"] == max((row["times"] for row in view["rows"]), key=len)
    assert all(row["times"] == view["times"][: len(row["times"])] for row in view["rows"])
    assert view["hidden"] == []
    text = as_json({"evil": "</script><script>alert(1)</script>&"})
    assert "<" not in text
    assert "&" not in text


def test_a_folder_without_snapshots_has_no_memory_view(tmp_path: Path) -> None:
    without = pagesim.run(EXPERIMENT, sets=["measure.memory_view=false", "seeds=[0]"], out=tmp_path / "r")
    assert memory_view(without, Rows.of(without)) is None
