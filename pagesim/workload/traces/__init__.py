"""Recorded requests: the published formats, read as they are."""

from __future__ import annotations

from pagesim.workload.traces.lookup import cache_dir, find_trace
from pagesim.workload.traces.reader import TraceRows, read_trace

__all__ = ["TraceRows", "cache_dir", "find_trace", "read_trace"]
