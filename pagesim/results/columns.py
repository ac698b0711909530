"""The columns of the summary: their order and their types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

IDENTITY: Final[dict[str, type]] = {"run": str, "allocator": str, "policy": str, "backend": str, "seed": int}
"""What a row is of; the keys of the sweep follow."""

FIGURES: Final[dict[str, type]] = {
    "utilization": float,
    "cached": float,
    "reserved": float,
    "internal": float,
    "external": float,
    "free": float,
    "external_index": float,
    "sharing_saving": float,
    "share_of_ideal": float,
    "mean_batched_requests": float,
    "peak_batched_requests": int,
    "throughput_requests_per_s": float,
    "throughput_output_tokens_per_s": float,
    "throughput_total_tokens_per_s": float,
    "goodput_requests_per_s": float,
    "normalized_latency_s_per_token": float,
    "ttft_mean_s": float,
    "ttft_p50_s": float,
    "ttft_p90_s": float,
    "ttft_p99_s": float,
    "tpot_mean_s": float,
    "tpot_p50_s": float,
    "tpot_p90_s": float,
    "tpot_p99_s": float,
    "itl_p50_s": float,
    "itl_p99_s": float,
    "itl_max_s": float,
    "e2e_mean_s": float,
    "e2e_p50_s": float,
    "e2e_p99_s": float,
    "queueing_mean_s": float,
    "finished": int,
    "refused": int,
    "unfinished": int,
    "preemptions_recompute": int,
    "preemptions_swap": int,
    "recomputed_tokens": int,
    "swapped_out_bytes": int,
    "swapped_in_bytes": int,
    "swap_stall_s": float,
    "copied_blocks": int,
    "limited_by": str,
    "iterations": int,
    "simulated_s": float,
}
"""The figures of a run; shares are of the device pool, time-weighted. Further columns follow them."""

SUMMARY_COLUMNS: Final = (*IDENTITY, *FIGURES)

MEMORY_PARTS: Final = ("utilization", "cached", "reserved", "internal", "external", "free")
"""The memory account: these columns of a row sum to 1 (``utilization`` is the live share)."""


def order(rows: Iterable[Iterable[str]], sweep: Iterable[str]) -> list[str]:
    """Return the columns in the order of the summary.

    Args:
        rows: the names of each row's columns.
        sweep: dotted keys of the sweep.
    """
    keys = [key for key in sweep if key not in IDENTITY]
    known = [*IDENTITY, *keys, *FIGURES]
    names = dict.fromkeys(name for row in rows for name in row)
    return [*known, *(name for name in names if name not in known)]
