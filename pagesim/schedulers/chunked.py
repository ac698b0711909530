"""One token budget for decodes and for chunks of prompts."""

from __future__ import annotations

from typing import ClassVar

from pagesim.schedulers.mixed import Mixed


class Chunked(Mixed):
    """Like mixed, but prompts are computed in chunks that fill the budget (Sarathi-Serve, vLLM v1)."""

    chunks_prompts: ClassVar[bool] = True
