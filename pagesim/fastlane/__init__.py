"""The fast lane: plain runs over plain numbers. Changes nothing but the speed (INV-10).

obstacle    why a run cannot be served so, if it cannot
arrivals    the coming requests as lists of numbers
state       the batch as numbers, and what the recorder gets of it
loop        one iteration after the other, or many at once
exchange    from the scheduler's queues to numbers, and back
"""

from __future__ import annotations

from pagesim.fastlane.lane import FastLane, obstacle

__all__ = ["FastLane", "obstacle"]
