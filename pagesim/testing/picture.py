"""The pool as text: every block with who holds it and what is in its slots."""

from __future__ import annotations

from collections.abc import Mapping

from pagesim.blocks import BlockPool
from pagesim.testing.contents import Contents, Memory


def draw(contents: Contents, held: Mapping[int, list[str]], homes: Mapping[int, list[str]]) -> str:
    """Return the device pool and the host's, a line a block."""
    pool = contents.pool
    text = _pool("The pool", "block", pool, contents, contents.device, held)
    if pool.host is not None:
        text += "\n" + _pool("The host's", "host block", pool.host, contents, contents.host, homes)
    return text


def _pool(
    title: str, what: str, pool: BlockPool, contents: Contents, memory: Memory, held: Mapping[int, list[str]]
) -> str:
    free = pool.num_blocks - pool.num_held
    lines = [f"{title}: {pool.num_blocks} blocks of {pool.block_size} slots, {free} free. Block, references, contents:"]
    width = max(len(str(pool.num_blocks - 1)), 1)
    names = {block: ", ".join(held.get(block, [])) or "-" for block in range(pool.num_blocks)}
    longest = max((len(name) for name in names.values()), default=0)
    for block in range(pool.num_blocks):
        tokens = " ".join(contents.in_block(memory, block))
        lines.append(
            f"  {what} {block:>{width}}  {pool.ref_counts[block]}  {names[block]:<{longest}}  | {tokens}".rstrip()
        )
    return "\n".join(lines)
