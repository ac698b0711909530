"""pagesim: how much KV-cache memory does an allocator waste, where, and what does it cost?

    results = pagesim.run("experiments/quickstart.yaml")
    results.summary                     # a DataFrame: one row a run
    pagesim.load("quickstart").timeline()

Names are looked up when they are first used, so that ``import pagesim`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pagesim.api import load, run
    from pagesim.blocks import BlockOps, BlockPool, Copy, SwapIn, SwapOut
    from pagesim.results import Results
    from pagesim.sequence import Request, Sequence

__version__ = "0.1.0"

__all__ = [
    "BlockOps",
    "BlockPool",
    "Copy",
    "Request",
    "Results",
    "Sequence",
    "SwapIn",
    "SwapOut",
    "__version__",
    "load",
    "run",
]

_HOMES = {
    "BlockOps": "blocks",
    "BlockPool": "blocks",
    "Copy": "blocks",
    "Request": "sequence",
    "Results": "results",
    "Sequence": "sequence",
    "SwapIn": "blocks",
    "SwapOut": "blocks",
    "load": "api",
    "run": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
