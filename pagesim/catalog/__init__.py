"""What is known of models, devices, lengths of requests and public traces: data in YAML, read when asked for."""

from __future__ import annotations

from pagesim.catalog.devices import DeviceSpec, device, devices
from pagesim.catalog.lengths import LengthsListing, lengths, lengths_entry
from pagesim.catalog.models import ModelSpec, model, models

__all__ = [
    "DeviceSpec",
    "LengthsListing",
    "ModelSpec",
    "device",
    "devices",
    "lengths",
    "lengths_entry",
    "model",
    "models",
]
