"""pagesim: how much KV-cache memory does an allocator waste, where, and what does it cost?"""

from __future__ import annotations

__version__ = "0.1.0"
