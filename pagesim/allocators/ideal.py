"""The bound: what a policy could reach that reserves nothing, fragments nothing and shares all."""

from __future__ import annotations

from pagesim.allocators.copy_on_write import CopyOnWrite


class Ideal(CopyOnWrite):
    """Copy-on-write by single tokens, without a watermark and without the cost of a block table."""

    contiguous = True
    default_block_size = 1
    default_watermark = 0.0
