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


def integers(name: str, values: Any, count: int) -> NDArray[np.int64]:
    """Return an array of int64 that is not the class's own. Raises PluginError for anything else."""
    array: NDArray[Any] = np.asarray(values)
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
