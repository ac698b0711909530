"""How long an iteration of a transformer takes, computed: a roofline (Williams et al. 2009), in integer ticks.

    weights    max(weight bytes / bandwidth, flops a token x tokens / rate)
    attention  KV bytes of the context x factor / bandwidth
    prompts    what they add to the line above, and for each chunk the larger of its attention's
               arithmetic and of reading its context
    copies     2 x bytes / copy bandwidth + one launch
    swaps      bytes / host link + a fixed cost for each piece, one after the other; with ``swap_overlap``
               only what is left when the rest of the step is over
    host       a constant, and a share for each sequence and each block-table entry

The price is a sum of integers times the counts of a ``Step``. A step without prompts and moves is therefore
priced without looking at a sequence, and over steps with the same batch it is an arithmetic series exactly.
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from typing import Any

from pagesim.backend import Machine, Step, StepResult
from pagesim.blocks import BlockOps, Copy
from pagesim.units import ticks
from pagesim_backends.coefficients import Coefficients, coefficients

__all__ = ["Coefficients", "CostModel", "coefficients"]


class CostModel:
    """A backend that computes durations. It is deterministic and keeps no state between steps.

    Args:
        coefficients: what everything costs, see ``coefficients``.
    """

    def __init__(self, coefficients: Coefficients) -> None:
        self.coefficients = given = coefficients
        bandwidth = given.bandwidth * given.bandwidth_share
        flops = given.flops * given.flops_share
        block_bytes = given.block_size * given.kv_bytes_per_token
        # Whole ticks for each unit: rounding them once keeps the price linear in the counts.
        self._weights = ticks(given.weight_bytes / bandwidth)
        self._token = ticks(given.flops_per_token / flops)
        self._reduce = ticks(given.all_reduce_bytes_per_token / given.all_reduce_bandwidth)
        self.context_token = ticks(given.kv_bytes_per_token * given.attention_factor / bandwidth)
        self._iteration = given.iteration + round(given.all_reduces * given.all_reduce_latency)
        self._sequence = given.sequence
        self.table_entry = given.table_entry
        self._copy = ticks(2 * block_bytes / (given.bandwidth * given.copy_share))
        self._launch = given.copy_launch
        self._swap = ticks(block_bytes / (given.link_bandwidth * given.link_share))
        self._transfer = round(given.transfers_per_block * given.transfer)
        self._swap_overlap = given.swap_overlap
        # A pair takes few ticks on a small model, so it keeps its fraction.
        self._pair = given.attention_flops_per_pair / flops * ticks(1)

    @classmethod
    def from_machine(cls, machine: Machine, **overrides: Any) -> CostModel:
        """Build the model for one row of an experiment; ``overrides`` as ``coefficients`` takes them.

        Raises ConfigError for an override that is not allowed.
        """
        return cls(
            coefficients(
                machine.model,
                machine.device,
                tensor_parallel=machine.tensor_parallel,
                dtype_bytes=machine.dtype_bytes,
                block_size=machine.block_size,
                contiguous=machine.contiguous,
                **overrides,
            )
        )

    def tariff(self) -> CostModel | None:
        """Return itself: counts tell the price, unless the model is so small that reading it takes no tick."""
        return self if self._weights and self.context_token else None

    def decodes(self, num_decodes: int) -> tuple[int, int]:
        """Return (weights, overhead) of a step with ``num_decodes`` decodes, before contexts and tables."""
        return self._linear(num_decodes), self._iteration + self._sequence * num_decodes

    def prompts(self, chunks: Listing[tuple[int, int, int]], num_decodes: int) -> tuple[int, int, int]:
        """Return (prefill, recompute, overhead) that chunks of (stored, new, recomputed) tokens add to a step."""
        return *self._prefill(chunks, num_decodes, 0), self._sequence * len(chunks)

    def copies(self, num_blocks: int) -> int:
        """Return the ticks of copying ``num_blocks`` blocks in one launch."""
        return self._launch + self._copy * num_blocks

    def execute(self, step: Step) -> StepResult:
        """Price ``step``; the parts sum to the duration, which is at least one tick."""
        num_decodes = step.num_decodes
        overhead = self._iteration + self._sequence * num_decodes + self.table_entry * step.table_entries
        attention = self.context_token * step.context_tokens
        prefill = recompute = copies = swaps = 0
        if step.prefills:
            weights = self._linear(num_decodes)
            chunks = [(sequence.num_stored, size, again) for sequence, size, again in step.prefills]
            prefill, recompute = self._prefill(chunks, num_decodes, step.padding_tokens)
            overhead += self._sequence * len(step.prefills)
        elif tokens := num_decodes + step.padding_tokens:
            weights = self._linear(tokens)
        else:
            weights = 0
        if step.ops:
            copies, swaps = self._move(step.ops)
        work = weights + attention + prefill + recompute + copies + overhead
        if swaps and self._swap_overlap:
            # What is moved is neither read nor written by the rest of the step, but a sequence that takes over
            # a block waits for the transfer: so the step lasts at least as long as its transfers.
            swaps = max(swaps - round(self._swap_overlap * work), 0)
        duration = work + swaps
        if not duration:
            duration = overhead = 1
        return StepResult(duration, weights, attention, prefill, recompute, copies, swaps, overhead)

    def _linear(self, num_tokens: int) -> int:
        """Return the ticks of all layers' linear parts: reading weights or computing, whichever is longer."""
        return max(self._weights, self._token * num_tokens) + self._reduce * num_tokens

    def _prefill(self, chunks: Listing[tuple[int, int, int]], num_decodes: int, num_padding: int) -> tuple[int, int]:
        """Return what chunks of prompts add to a step: (for the first time, once more).

        Token i of a chunk attends to the ``num_stored`` tokens before the chunk and to i of its own.
        Padding goes with the prompts that it pads.
        """
        num_tokens = num_recomputed = attention = attention_again = 0
        for stored, size, recomputed in chunks:
            pairs = size * stored + size * (size + 1) // 2
            cost = max(round(pairs * self._pair), self.context_token * (stored + size))
            num_tokens += size
            attention += cost
            if recomputed:
                num_recomputed += recomputed
                attention_again += cost * recomputed // size
        added = self._linear(num_decodes + num_tokens + num_padding) - self._linear(num_decodes)
        again = added * num_recomputed // num_tokens + attention_again
        return added + attention - again, again

    def _move(self, ops: BlockOps) -> tuple[int, int]:
        """Return the ticks of a plan: (copies on the device, moves over the host link)."""
        num_copied = swaps = 0
        for op in ops:
            if isinstance(op, Copy):
                num_copied += op.num_blocks
            else:
                swaps += self._swap * op.num_blocks + self._transfer
        return (self.copies(num_copied) if num_copied else 0), swaps
