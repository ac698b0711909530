"""Random streams by name, so that what is drawn for one purpose never depends on another."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

Name = Literal["arrivals", "prompts", "outputs", "estimates", "samples", "prefixes", "beams", "think"]


def stream(seed: int, name: Name) -> np.random.Generator:
    """Return the generator of one purpose, at its start.

    It depends on the seed and on the name alone: further names change nothing, and each call starts anew.

    Args:
        seed: of the run, from 0.
        name: what is drawn. Prompts and outputs have a stream each.
    """
    words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u4")
    child = np.random.SeedSequence(seed, spawn_key=tuple(int(word) for word in words))
    return np.random.Generator(np.random.PCG64(child))
