"""What ``pagesim validate`` shows: the memory arithmetic line by line, and every cost coefficient."""

from __future__ import annotations

from pagesim.runs import Run, RunSpec
from pagesim.sizing import DTYPE_BYTES, PoolSizes, Sizing
from pagesim.units import format_bytes, format_time

Row = tuple[str, str, str]
Section = tuple[str, list[Row]]


def sections(specs: list[RunSpec]) -> list[Section]:
    """Return the sections for the first sweep point of ``specs``: memory, workload, and each row's pool and costs."""
    first = Run(specs[0])
    rows: dict[str, RunSpec] = {}
    for spec in specs:
        rows.setdefault(spec.allocator, spec)
    result = [
        ("Memory of each GPU", _memory(first)),
        ("Workload", _workload(first)),
        ("Runs", [("runs", f"{len(specs)}", f"{len(rows)} allocators x sweep points x seeds")]),
    ]
    shown: list[Row] = []
    for name, spec in rows.items():
        run = first if spec is first.spec else Run(spec)
        result.append((f"Allocator {name}", _pool(run.sizes, run.sizing)))
        coefficients = getattr(run.engine.backend, "coefficients", None)
        if coefficients is not None and hasattr(coefficients, "rows"):
            costs: list[Row] = list(coefficients.rows())
            changed = [row for row in costs if row not in shown]
            title = f"Cost of a step, {name}" + (", where it differs" if shown else "")
            if changed:
                result.append((title, changed))
            shown = shown or costs
    return result


def _memory(run: Run) -> list[Row]:
    config, sizing, model = run.spec.config, run.sizing, run.model
    degree = config.tensor_parallel
    dtype_bytes = DTYPE_BYTES[config.memory.dtype]
    limits = config.scheduler
    formula = f"2 x {model.num_layers} layers x {model.num_kv_heads} KV heads x {model.head_dim} x {dtype_bytes} B" + (
        f" / {degree} GPUs" if degree > 1 else ""
    )
    lines = [
        ("device memory", format_bytes(sizing.device_bytes), run.device.name),
        (
            "- weights",
            format_bytes(sizing.weight_bytes),
            f"{model.num_parameters / 1e9:.2f} B x {dtype_bytes} B / {degree}",
        ),
    ]
    if sizing.is_auto:
        unused = sizing.device_bytes - sizing.budget_bytes
        lines.insert(1, ("- left alone", format_bytes(unused), f"1 - memory.fraction {config.memory.fraction}"))
        batch = f"{limits.max_num_batched_tokens} tokens, {limits.max_num_seqs} sequences"
        lines.append(("- activations", format_bytes(sizing.activation_bytes), f"of the largest batch: {batch}"))
    origin = "what is left" if sizing.is_auto else "memory.kv_cache"
    lines += [
        ("KV cache", f"{format_bytes(sizing.kv_cache_bytes)} ({sizing.kv_cache_bytes} B)", origin),
        ("KV of one token", f"{sizing.kv_bytes_per_token} B", formula),
        ("slots", f"{sizing.num_slots}", "KV cache / KV of one token, rounded down"),
        ("largest request", f"{limits.max_model_len} tokens", "scheduler.max_model_len"),
    ]
    if sizing.host_bytes:
        lines.append(("host KV cache", format_bytes(sizing.host_bytes), "memory.host_kv_cache"))
    return lines


def _workload(run: Run) -> list[Row]:
    workload = run.workload
    lines = [("requests", f"{len(workload)}", f"seed {run.spec.seed}, digest {workload.digest[:12]}")]
    too_long = 0
    sums, longest = {"prompt": 0, "output": 0}, {"prompt": 0, "output": 0}
    for chunk in workload.chunks():
        for what, tokens in (("prompt", chunk.prompt_tokens), ("output", chunk.output_tokens)):
            sums[what] += int(tokens.sum())
            longest[what] = max(longest[what], int(tokens.max()))
        limit = run.spec.config.scheduler.max_model_len
        too_long += int((chunk.prompt_tokens + chunk.output_tokens > limit).sum())
    for what, total in sums.items():
        lines.append((f"mean {what}", f"{total / len(workload):.1f} tokens", f"longest {longest[what]}"))
    if workload.arrival_marks is not None and len(workload) > 1:
        span = workload.arrival_marks[-1] - workload.arrival_marks[0]
        rate = (len(workload) - 1) / (span / 1e12) if span else float("inf")
        lines.append(("arrivals", f"over {format_time(span)}", f"{rate:.3g} requests/s"))
    if too_long:
        lines.append(("too long", f"{too_long} requests", f"scheduler.too_long: {run.spec.config.scheduler.too_long}"))
    return lines


def _pool(sizes: PoolSizes, sizing: Sizing) -> list[Row]:
    tail = sizing.num_slots - sizes.num_blocks * sizes.block_size
    lines = [
        ("blocks", f"{sizes.num_blocks} of {sizes.block_size} slots", f"{tail} slots make no whole block (external)"),
        ("watermark", f"{sizes.watermark_blocks} blocks", "left free by admissions"),
    ]
    if sizes.num_host_blocks:
        lines.append(("host blocks", f"{sizes.num_host_blocks}", "for swapping"))
    return lines
