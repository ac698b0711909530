"""The allocator contract, for every policy that comes with pagesim, through the door that users have.

The worked examples are policies that can do less: they neither fork nor swap nor share.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

from pagesim import plugins
from pagesim.allocators.contiguous import Contiguous
from pagesim.allocators.copy_on_write import CopyOnWrite
from pagesim.allocators.ideal import Ideal
from pagesim.allocators.paged import Paged
from pagesim.allocators.swapping import Swapping
from pagesim.testing import allocator_contract

_PLUGINS = Path(__file__).parents[2] / "experiments" / "plugins"

TestDoubling = allocator_contract(plugins.resolve("allocator", "doubling.py:Doubling", _PLUGINS))
TestGrowing = allocator_contract(plugins.resolve("allocator", "growing.py:Growing", _PLUGINS))
TestPaged = allocator_contract(Paged)
TestCopyOnWrite = allocator_contract(CopyOnWrite)
TestIdeal = allocator_contract(Ideal)
TestSwapping = allocator_contract(Swapping)

for _reserve, _placement in product(("max", "pow2", "oracle"), ("buddy", "first_fit", "best_fit")):
    globals()[f"TestContiguous_{_reserve}_{_placement}"] = allocator_contract(
        Contiguous, reserve=_reserve, placement=_placement
    )
