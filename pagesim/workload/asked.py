"""What classes that an experiment names answer: they may be a user's, so it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagesim import plugin_modules
from pagesim.config import Part
from pagesim.errors import PagesimError, PluginError


def ask(method: Callable[..., Any], count: int, rng: np.random.Generator) -> Any:
    """Return what a policy answers. Raises PluginError with its place if it raises."""
    try:
        return method(count, rng)
    except PagesimError:
        raise
    except Exception as error:
        name = getattr(method, "__qualname__", str(method))
        raise PluginError(f"{name} raises: {plugin_modules.describe(error)}") from error


def check_chunks(name: str, method: Callable[..., Any]) -> None:
    """Raise PluginError unless what ``method`` draws in two calls is what it draws in one."""
    whole, parts = np.random.default_rng(0), np.random.default_rng(0)
    drawn = np.concatenate([np.asarray(ask(method, count, parts)) for count in (23, 41)])
    if not np.array_equal(np.asarray(ask(method, 64, whole)), drawn):
        raise PluginError(
            f"{name}: is drawn in chunks, but 23 and then 41 of them are not the first 64: each number takes the "
            "same draws from rng, in the order of requests"
        )


def integers(name: str, values: Any, count: int) -> NDArray[np.int64]:
    """Return an array of int64 that is not the class's own. Raises PluginError for anything else."""
    try:
        array: NDArray[Any] = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise PluginError(f"{name}: must be {count} whole numbers: {error}") from None
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        raise PluginError(f"{name}: must be {count} whole numbers, is {array.dtype} of shape {array.shape}")
    if count and array.strides == (0,):  # one number, seen as often as it is wanted
        return np.broadcast_to(array[0].astype(np.int64), count)
    return array.astype(np.int64)


def options_of(part: Part, name_key: str) -> dict[str, Any]:
    """Return the keys that are given besides the policy's name, and its further ``options``."""
    options = {key: value for key, value in part if value is not None and key != name_key}
    further: dict[str, Any] = options.pop("options", {})
    return options | further
