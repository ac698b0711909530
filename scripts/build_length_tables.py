"""Compute the quantile tables of ``pagesim/catalog/length_tables.yaml`` from public traces.

    python scripts/build_length_tables.py TRACES_FOLDER [OUTPUT]

The same files give the same bytes. The files' names and checksums: ``pagesim list traces``.

A table keeps the joint structure of prompt and output lengths: the requests, sorted by prompt length, are cut
into bins of equal probability, and each bin has quantiles of its own outputs. One correlation coefficient would
be smaller, but the dependence is far from that of two normal variables: outputs are short after both the shortest
and the longest prompts in some sets, and the total is capped in others.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagesim import catalog
from pagesim.config import TraceConfig
from pagesim.errors import PagesimError
from pagesim.workload.traces import TraceRows, read_trace

OUTPUT = Path(__file__).resolve().parents[1] / "pagesim" / "catalog" / "length_tables.yaml"

# Dense where a long tail would make the linear pieces between points too heavy.
PROMPT_PROBABILITIES = (
    *(0, 0.001, 0.002, 0.005),
    *(percent / 100 for percent in range(1, 100)),
    *(0.995, 0.998, 0.999, 1),
)
OUTPUT_PROBABILITIES = (0, 0.02, *(percent / 100 for percent in range(5, 96, 5)), 0.98, 0.99, 0.995, 1)
NUM_BINS = 20

TABLES = {
    "azure-conversation": "azure-2023-conversation",
    "azure-code": "azure-2023-code",
    "mooncake-conversation": "mooncake-conversation",
    "sharegpt-8k": "sharegpt-8k",
    "arxiv-summarization": "arxiv-summarization",
    "arxiv-long": "arxiv-long",
}
"""Name of the lengths -> name of the trace."""


def rank_correlation(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: NDArray[np.int64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def table(rows: TraceRows) -> str:
    """Return the YAML of one table, indented."""
    prompts, outputs = rows.prompt_tokens, rows.output_tokens
    order = np.argsort(prompts, kind="stable")
    lines = [
        f"rows: {len(rows)}",
        f"prompt_mean: {prompts.mean():.3f}",
        f"output_mean: {outputs.mean():.3f}",
        f"rank_correlation: {rank_correlation(prompts, outputs):.4f}",
        *_values("prompt: ", prompts, PROMPT_PROBABILITIES),
        "outputs:",
    ]
    for chosen in np.array_split(order, NUM_BINS):
        lines += _values("- ", outputs[chosen], OUTPUT_PROBABILITIES)
    return "".join(f"  {line}\n" for line in lines)


def _values(start: str, lengths: NDArray[np.int64], probabilities: tuple[float, ...]) -> list[str]:
    """Return quantiles as one YAML text: a list of thousands of numbers is slow to parse."""
    quantiles = np.rint(np.quantile(lengths, probabilities)).astype(int)
    return textwrap.wrap(start + " ".join(map(str, quantiles)), 110, subsequent_indent="  ")


def build(folder: Path) -> str:
    """Return the whole file. Raises PagesimError where a trace is missing or is not the one that is known."""
    known = {trace.name: trace for trace in catalog.traces()}
    numbers = {"prompt": PROMPT_PROBABILITIES, "output": OUTPUT_PROBABILITIES}
    parts = ["# Written by scripts/build_length_tables.py; sources and licences: lengths.yaml.\n", "probabilities:\n"]
    for name, probabilities in numbers.items():
        wrapped = textwrap.wrap(" ".join(f"{value:g}" for value in probabilities), 110)
        parts.append(f"  {name}:\n" + "".join(f"    {line}\n" for line in wrapped))
    for name, trace_name in TABLES.items():
        trace = known[trace_name]
        path = folder / trace.file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != trace.sha256:
            raise PagesimError(f"{path}: is not the file that the catalog knows as {trace_name}: its checksum differs")
        rows = read_trace(TraceConfig.model_validate({"path": str(path), "format": trace.format}), folder)
        parts.append(f"{name}:\n{table(rows)}")
    return "".join(parts)


def main() -> int:
    """Write the file and return the exit code."""
    parser = argparse.ArgumentParser(description="Compute the quantile tables of named lengths from public traces.")
    parser.add_argument("folder", type=Path, help="folder of the traces")
    parser.add_argument("output", type=Path, nargs="?", default=OUTPUT, help="file to write")
    arguments = parser.parse_args()
    try:
        text = build(arguments.folder.resolve())
    except PagesimError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
