"""A run, step by step: what each step found, what the scheduler decided and why, and where every token went.

watch      notes why the scheduler holds a request back, and who preempts whom
observer   takes a frame of every step inside a window
words      the sentences
batch      small batches that are easy to follow
window     a part of a real run, and the life of one of its requests
terminal, page   show them
"""

from __future__ import annotations
