"""``pagesim list``: what an experiment can name."""

from __future__ import annotations

import enum
import json
from typing import TYPE_CHECKING, Annotated

import typer

from pagesim.commands.options import Debug, Json
from pagesim.commands.tables import columns
from pagesim.units import format_bytes

if TYPE_CHECKING:
    from pagesim.catalog import DeviceSpec, ModelSpec


class Kind(enum.StrEnum):
    """What can be listed."""

    ALLOCATORS = "allocators"
    SCHEDULERS = "schedulers"
    VICTIMS = "victims"
    BACKENDS = "backends"
    ARRIVALS = "arrivals"
    LENGTHS = "lengths"
    MODELS = "models"
    DEVICES = "devices"
    TRACES = "traces"


_PLUGINS = {
    Kind.ALLOCATORS: "allocator",
    Kind.SCHEDULERS: "scheduler",
    Kind.VICTIMS: "victim",
    Kind.BACKENDS: "backend",
    Kind.ARRIVALS: "arrivals",
    Kind.LENGTHS: "lengths",
}


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.", show_default=False)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List what an experiment can name, a line each."""
    rows = _rows(kind)
    if as_json:
        typer.echo(json.dumps([dict(zip(("name", "origin", "summary"), row, strict=True)) for row in rows], indent=2))
    else:
        # where a model's numbers come from is long, where a policy comes from is worth a column if they differ
        shows_origin = kind in _PLUGINS and len({origin for _, origin, _ in rows}) > 1
        shown = rows if shows_origin else [(name, summary) for name, _, summary in rows]
        typer.echo(columns(shown, indent=""))


def _rows(kind: Kind) -> list[tuple[str, str, str]]:
    """Return (name, where it comes from, what it is)."""
    from pagesim import catalog, plugins

    match kind:
        case Kind.MODELS:
            return [(spec.name, spec.source, _model(spec)) for spec in catalog.models()]
        case Kind.DEVICES:
            return [(spec.name, spec.source, _device(spec)) for spec in catalog.devices()]
        case Kind.TRACES:
            return [(trace.name, trace.origin, trace.summary) for trace in catalog.traces()]
        case Kind.LENGTHS:
            shapes = [
                (row.name, "distribution" if row.origin == "pagesim" else row.origin, row.summary)
                for row in plugins.available("lengths")
            ]
            return [(row.name, "dataset", row.summary) for row in catalog.lengths()] + shapes
    return [(row.name, row.origin, row.summary) for row in plugins.available(_PLUGINS[kind])]


def _model(spec: ModelSpec) -> str:
    heads = f"{spec.num_heads} heads" + (
        f" on {spec.num_kv_heads} KV heads" if spec.num_kv_heads != spec.num_heads else ""
    )
    return (
        f"{spec.num_parameters / 1e9:.3g} B parameters, {spec.num_layers} layers, {heads} of {spec.head_dim}, "
        f"{spec.max_position} tokens"
    )


def _device(spec: DeviceSpec) -> str:
    return (
        f"{format_bytes(spec.memory_bytes)} at {spec.bandwidth_bytes_per_s / 1e9:.0f} GB/s, "
        f"{spec.flops_fp16_per_s / 1e12:.0f} TFLOP/s, host link {spec.host_link_bytes_per_s / 1e9:.0f} GB/s"
    )
