"""The contract that an allocator keeps, as property tests for a policy of one's own.

    TestDoubling = allocator_contract(Doubling)     # in a test file, for pytest or unittest

    bench = Bench(Doubling, num_blocks=4)           # by hand: one call after the other
    serve(Doubling, num_blocks=4, requests=...)     # a whole run

From the command line: ``pagesim check doubling.py:Doubling``.
"""

from __future__ import annotations

from pagesim.testing.bench import Bench
from pagesim.testing.contract import allocator_contract
from pagesim.testing.failure import ContractError
from pagesim.testing.server import serve

__all__ = ["Bench", "ContractError", "allocator_contract", "serve"]
