"""Words that a policy's class says of its methods, so that they need not be called each time."""

from __future__ import annotations


def says(policy: object, word: str, *methods: str) -> bool:
    """Return whether the class that gave ``policy`` its ``methods``, or one below it, says ``word``.

    A word is a promise about methods, so a subclass that has one of its own does not inherit it; nor does an object
    that was given one.
    """
    if any(method in getattr(policy, "__dict__", {}) for method in methods):
        return False
    for cls in type(policy).__mro__:
        if word in vars(cls):
            return bool(vars(cls)[word])
        if any(method in vars(cls) for method in methods):
            return False
    return False
