"""Which requests arrive, when, and how long they are: drawn from seeded streams, or read from traces."""

from __future__ import annotations

from pagesim.workload.access import Access
from pagesim.workload.build import build_workload
from pagesim.workload.data import Chunk, ClosedLoop, Workload
from pagesim.workload.streams import stream

__all__ = ["Access", "Chunk", "ClosedLoop", "Workload", "build_workload", "stream"]
