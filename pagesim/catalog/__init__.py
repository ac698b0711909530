"""What is known of models, devices, lengths of requests and public traces: data in YAML, read when asked for."""

from __future__ import annotations

from pagesim.catalog.devices import DeviceSpec, device, devices
from pagesim.catalog.lengths import LengthsListing, LengthTable, length_table, lengths, lengths_entry
from pagesim.catalog.models import ModelSpec, model, models
from pagesim.catalog.traces import TraceInfo, traces

__all__ = [
    "DeviceSpec",
    "LengthTable",
    "LengthsListing",
    "ModelSpec",
    "TraceInfo",
    "device",
    "devices",
    "length_table",
    "lengths",
    "lengths_entry",
    "model",
    "models",
    "traces",
]
