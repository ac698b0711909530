"""The policy under test: how it is built, what it can do, and how a program names it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pagesim import plugins
from pagesim.allocators.base import Allocator, Forks, Prefixes, Swaps, counts_blocks, grows_by_block
from pagesim.blocks import BlockPool
from pagesim.errors import PluginError

Factory = Callable[..., Allocator]
"""A policy's class, or any callable that takes a pool and returns a policy over it."""

CAPABILITIES = {
    "Forks": "fork: parallel samples and beams",
    "Swaps": "swap_out, swap_in: preemption by swapping",
    "Prefixes": "match: prefixes that requests share",
    "grows_by_block": "a full table takes one more block, any one",
    "counts_blocks": "how many blocks, never which",
}
"""What a policy may have on top of the two verbs, and what is not tested where it lacks it."""

_PROTOCOLS = {"Forks": Forks, "Swaps": Swaps, "Prefixes": Prefixes}


@dataclass(frozen=True)
class Policy:
    """What is tested: a factory, and the options that it is built with.

    Attributes:
        factory: see ``Factory``.
        options: keyword arguments of the policy.
    """

    factory: Factory
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name, for people."""
        return str(getattr(self.factory, "__name__", type(self.factory).__name__))

    @property
    def takes_length(self) -> bool:
        """Whether it wants to know the longest that a sequence may become."""
        return self.takes("max_model_len")

    def takes(self, option: str) -> bool:
        """Whether it takes an option that has not been given yet."""
        return option not in self.options and plugins.accepts(self.factory, option)

    def build(self, pool: BlockPool, max_model_len: int) -> Allocator:
        """Return the policy over a pool.

        Raises PluginError where it cannot be built, or does not keep the pool.
        """
        options = dict(self.options)
        if self.takes_length:
            options["max_model_len"] = max_model_len
        built = (
            plugins.build(self.factory, pool, **options)
            if inspect.isclass(self.factory)
            else self.factory(pool, **options)
        )
        if getattr(built, "pool", None) is not pool:
            raise PluginError(f"{self.name} must keep the pool that it is given as `self.pool`")
        return cast(Allocator, built)

    def capabilities(self) -> list[str]:
        """Return which of ``CAPABILITIES`` it has."""
        built = self.build(BlockPool(64, 1, host=BlockPool(64, 1)), max_model_len=8)
        found = [name for name, protocol in _PROTOCOLS.items() if isinstance(built, protocol)]
        said = {"grows_by_block": grows_by_block, "counts_blocks": counts_blocks}
        return found + [word for word, says_so in said.items() if says_so(built)]

    def source(self) -> tuple[list[str], str]:
        """Return (imports, expression) with which a program names the factory."""
        return source_of(self.factory, "allocator")

    def test_name(self) -> str:
        """Return a function's name for a program."""
        return "test_" + re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", self.name).strip("_").lower()


def source_of(named: Any, kind: str) -> tuple[list[str], str]:
    """Return (imports, expression) with which a program names a class or a function.

    What has no name of its own, such as a lambda, is called ``policy``.
    """
    if not (inspect.isclass(named) or inspect.isfunction(named)) or "<lambda>" in named.__qualname__:
        return [], "policy"
    name, module = named.__qualname__, sys.modules.get(named.__module__)
    if "<locals>" in name or module is None or module.__name__ == "__main__":
        return [], named.__name__
    file = getattr(module, "__file__", None)
    if file is None or not hasattr(module, "__pagesim_stamp__"):
        return [f"from {module.__name__} import {name.partition('.')[0]}"], name
    # a file that was named on the command line or in an experiment, not an installed module
    path, parts = Path(file), module.__name__.split(".")[1:]
    if parts:
        package = path.parents[len(parts) - 1]
        where, target = f"Path({str(package.parent)!r})", ".".join([package.name, *parts])
    else:
        where, target = "Path()", str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    imports = ["from pathlib import Path", "from pagesim.plugins import resolve"]
    return imports, f'resolve("{kind}", "{target}:{name}", {where})'
