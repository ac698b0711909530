"""Executes every step on the CPU: K and V are really stored, copied, swapped and attended to.

It is the oracle of the GPU backend and the proof, on any machine, that a policy's block tables and
plans keep every sequence's context: the attention output of each token is folded into a digest,
and a token that is computed again must give the same one, bit for bit (INV-9).

    store   [2, slots, layers, kv_heads, head_dim]      K at 0, V at 1
    host    [2, host slots, layers, kv_heads, head_dim]

A slot that nobody has written holds NaN, and so does every slot that a swap-out left: a policy that
reads one shows in the output at once.

It is written with numpy, not with torch, so that it runs wherever pagesim does: in CI, executing the memory
traffic of every policy for real, and behind ``--set backend=reference`` on any laptop.
"""

from __future__ import annotations

import math
import os
import time
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pagesim.backend import Backend, Machine, Step, StepResult
from pagesim.blocks import BlockOps, Copy, SwapOut
from pagesim.errors import ConfigError, InvariantError
from pagesim.sequence import Sequence
from pagesim.units import ticks
from pagesim_backends import tokens
from pagesim_backends.cache_shape import CacheShape, describe, slot_mapping
from pagesim_backends.errors import UnavailableError

Tensor = npt.NDArray[np.floating[Any]]

_DTYPES: Final[dict[str, np.dtype[Any]]] = {"float32": np.dtype(np.float32), "float64": np.dtype(np.float64)}


class Reference:
    """The same steps on the CPU: real K and V of a small model, no GPU.

    Args:
        num_blocks: device blocks of the policy's pool.
        block_size: slots of a block.
        num_host_blocks: blocks of the host pool, 0 without one.
        num_layers: layers of the model that it computes; small, since every slot is real memory.
        num_query_heads: heads that attend.
        num_kv_heads: heads that are stored.
        head_dim: elements of a head.
        dtype: float32 or float64.
        seed: of the hash that gives q, K and V.
        timing: a backend that says how long a step takes; None measures this machine's clock.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        num_host_blocks: int = 0,
        num_layers: int = 2,
        num_query_heads: int = 2,
        num_kv_heads: int = 1,
        head_dim: int = 8,
        dtype: str = "float64",
        seed: int = 0,
        timing: Backend | None = None,
    ) -> None:
        if dtype not in _DTYPES:
            raise UnavailableError(f"backend reference computes in {' or '.join(_DTYPES)}, not in {dtype!r}")
        self.shape = CacheShape(
            num_blocks, block_size, num_host_blocks, num_layers, num_query_heads, num_kv_heads, head_dim
        )
        self.seed = seed
        self.timing = timing
        self._dtype: np.dtype[Any] = _DTYPES[dtype]
        self._store = self._allocate(num_blocks * block_size, "kv_cache")
        self._host = self._allocate(num_host_blocks * block_size, "host_kv_cache")
        self._marks: dict[int, dict[int, bytes]] = {}  # of a branch: position -> digest of its output

    @classmethod
    def from_machine(cls, machine: Machine, *, timing: str = "cost_model", **options: Any) -> Reference:
        """Return a reference for one row of an experiment.

        Args:
            machine: gives the pool's sizes and the seed; the model's own sizes would not fit a CPU.
            timing: ``cost_model`` prices each step, so that tables are reproducible; ``measured`` takes this
                machine's clock.
            options: ``num_layers``, ``num_query_heads``, ``num_kv_heads``, ``head_dim``, ``dtype``.

        Raises ConfigError on another ``timing`` or an unknown option.
        """
        if timing not in ("cost_model", "measured"):
            raise ConfigError(f"backend.timing: {timing!r} is unknown; allowed: cost_model, measured")
        allowed = ("num_layers", "num_query_heads", "num_kv_heads", "head_dim", "dtype")
        for name in options:
            if name not in allowed:
                raise ConfigError(f"backend.{name}: reference takes no {name!r}; it takes timing, {', '.join(allowed)}")
        prices = None
        if timing == "cost_model":
            from pagesim_backends.cost_model import CostModel

            prices = CostModel.from_machine(machine)
        return cls(
            num_blocks=machine.num_blocks,
            block_size=machine.block_size,
            num_host_blocks=machine.num_host_blocks,
            seed=machine.seed,
            timing=prices,
            **options,
        )

    def execute(self, step: Step) -> StepResult:
        """Move the blocks, store K and V of the step's tokens, and attend with each of them.

        Raises InvariantError if a token's output differs from an earlier time, or is not a number.
        """
        started = time.perf_counter()
        self._perform(step.ops)
        work = [(chunk.sequence, chunk.num_tokens) for chunk in step.prefills]
        work += [(sequence, 1) for sequence in step.decodes]
        queries = [self._write(sequence, num_tokens) for sequence, num_tokens in work]
        for (sequence, _), query in zip(work, queries, strict=True):
            self._attend(sequence, query)
        if self.timing is not None:
            return self.timing.execute(step)
        duration = max(ticks(time.perf_counter() - started), 1)
        return StepResult(duration, overhead=duration)

    def digest(self, sequence: Sequence, num_tokens: int | None = None) -> str:
        """Return one digest of the attention outputs of a sequence's first tokens, in their order.

        All that are stored, unless ``num_tokens`` says how many.

        An output belongs to the branch that the token is of: sequences that share a prompt share its outputs,
        whichever of them computed it.
        """
        marks: dict[int, bytes] = {}
        num_tokens = sequence.num_stored if num_tokens is None else num_tokens
        for run in tokens.runs_of(sequence, self.seed, 0, num_tokens):
            done = self._marks.get(run.stream, {})
            marks.update((position, done[position]) for position in range(run.start, run.stop) if position in done)
        whole = blake2b(digest_size=16)
        for position in sorted(marks):
            whole.update(position.to_bytes(8, "little") + marks[position])
        return whole.hexdigest()

    def stored(self, sequence: Sequence) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return K and V of the stored tokens, as the device pool holds them now.

        Both float64, shape (stored tokens, layers, kv_heads, head_dim).
        """
        slots = slot_mapping(sequence.block_table, self.shape.block_size, 0, sequence.num_stored)
        held = self._store[:, slots].astype(np.float64)
        return held[0], held[1]

    def expected(self, sequence: Sequence) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return K and V as the stored tokens' hash gives them; shapes as in ``stored``."""
        keys = tokens.token_keys(tokens.runs_of(sequence, self.seed, 0, sequence.num_stored))
        return self._values(keys, tokens.KEY), self._values(keys, tokens.VALUE)

    def _allocate(self, num_slots: int, what: str) -> Tensor:
        shape = (2, num_slots, self.shape.num_layers, self.shape.num_kv_heads, self.shape.head_dim)
        num_bytes = math.prod(shape) * self._dtype.itemsize
        try:
            if num_bytes < _physical_memory():
                return np.full(shape, np.nan, dtype=self._dtype)
        except MemoryError:
            pass
        raise UnavailableError(
            f"backend reference cannot allocate {num_bytes / 2**30:.1f} GiB for {num_slots} slots; "
            f"lower memory.{what} or its num_layers, num_kv_heads or head_dim"
        )

    def _perform(self, ops: BlockOps) -> None:
        size = self.shape.block_size
        for op in ops:
            length = op.num_blocks * size
            if isinstance(op, Copy):
                source, target = op.source * size, op.destination * size
                self._store[:, target : target + length] = self._store[:, source : source + length].copy()
                continue
            device, host = op.device * size, op.host * size
            if isinstance(op, SwapOut):
                self._host[:, host : host + length] = self._store[:, device : device + length]
                self._store[:, device : device + length] = np.nan
            else:
                self._store[:, device : device + length] = self._host[:, host : host + length]
                self._host[:, host : host + length] = np.nan

    def _values(self, keys: tokens.Words, what: int) -> npt.NDArray[np.float64]:
        heads = self.shape.num_query_heads if what == tokens.QUERY else self.shape.num_kv_heads
        return tokens.values(keys, what, self.shape.num_layers, heads, self.shape.head_dim)

    def _write(self, sequence: Sequence, num_tokens: int) -> Tensor:
        """Store K and V of the next tokens and return their queries, (tokens, layers, heads, head_dim)."""
        start = sequence.num_stored
        keys = tokens.token_keys(tokens.runs_of(sequence, self.seed, start, start + num_tokens))
        slots = slot_mapping(sequence.block_table, self.shape.block_size, start, start + num_tokens)
        for row, what in enumerate((tokens.KEY, tokens.VALUE)):
            self._store[row, slots] = self._values(keys, what)
        return self._values(keys, tokens.QUERY).astype(self._dtype)

    def _attend(self, sequence: Sequence, query: Tensor) -> None:
        """Attend with each new token on its own, in shapes that depend on its position alone.

        A batched product would be faster and would round differently in another batch.
        """
        start, num_tokens = sequence.num_stored, len(query)
        slots = slot_mapping(sequence.block_table, self.shape.block_size, 0, start + num_tokens)
        key, value = self._store[0, slots], self._store[1, slots]
        grouped = query.reshape(num_tokens, self.shape.num_layers, self.shape.num_kv_heads, self.shape.group, -1)
        runs = tokens.runs_of(sequence, self.seed, start, start + num_tokens)
        for position, stream in ((position, run.stream) for run in runs for position in range(run.start, run.stop)):
            offset = position - start
            output = attention(grouped[offset], key[: position + 1], value[: position + 1])
            if not np.isfinite(output).all():
                raise InvariantError(
                    f"INV-2: {describe(sequence)} attends at position {position} to a slot that nobody has written"
                )
            mark = blake2b(output.tobytes(), digest_size=16).digest()
            if self._marks.setdefault(stream, {}).setdefault(position, mark) != mark:
                raise InvariantError(
                    f"INV-9: {describe(sequence)} computes position {position} again and gets another output; "
                    "its context has changed in between"
                )


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the attention output of one token in all layers; (layers, kv_heads, group, head_dim).

    softmax(q K^T / sqrt(head_dim)) V. Arrays of equal shapes give equal bits for equal numbers.

    Args:
        query: (layers, kv_heads, group, head_dim).
        key: (context, layers, kv_heads, head_dim).
        value: likewise.
    """
    scores = (key[:, :, :, None] * query).sum(-1) * query.shape[-1] ** -0.5
    weights = np.exp(scores - scores.max(0))
    output: Tensor = (weights[..., None] * value[:, :, :, None]).sum(0) / weights.sum(0)[..., None]
    return output


def _physical_memory() -> int:
    """Return the bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
