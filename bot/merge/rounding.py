"""Rounds merged numbers to their dtype on disk, once, and refuses what does not survive it."""

from __future__ import annotations

import math

import numpy as np

from bot.merge.piece import not_finite, overflow
from bot.weights.floats import Array, narrow, widen

HALF = 0x8000  # half a unit in the last place of bfloat16, in the bits of a float32
EVEN = 0xFFFE


def rounded(values: Array, *, dtype: str, name: str) -> Array:
    """The numbers, float32 or float64, in safetensors' `dtype`. Raises RefusedError for NaN and infinity."""
    result = narrow(values, dtype)
    if not np.isfinite(widen(result, dtype)).all():
        raise overflow(name, dtype=dtype) if np.isfinite(values).all() else not_finite(name)
    return result


class Bfloat16Desk:
    """The memory of one thread for blocks of bfloat16: taking it anew for each block would cost as much as the sums.

    The results are those of `widen` and `rounded`, in a third of their time.
    """

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self._raw = np.empty(0, np.uint16)

    def raw(self, shape: tuple[int, int]) -> Array:
        """Where to read several blocks into. Valid until it is asked for again."""
        size = shape[0] * shape[1]
        if size > self._raw.size:
            self._raw = np.empty(size, np.uint16)
        return self._raw[:size].reshape(shape)

    def widen(self, raw: Array) -> tuple[Array, Array]:
        """The numbers of a block as float32, to be changed in place and `rounded`; and memory of their size."""
        if raw.shape != self.shape:
            self._take(raw.shape)
        self._bits[...] = raw
        np.left_shift(self._bits, 16, out=self._bits)
        return self._weight, self._product

    def rounded(self, *, name: str, out: Array) -> None:
        """Puts what became of the widened numbers, rounded, into `out`."""
        squares = float(self._flat.dot(self._flat))  # a tenth of isfinite's time
        if not math.isfinite(squares):  # something is above 1e19, or not finite
            out[...] = rounded(self._weight, dtype="BF16", name=name)
            return
        np.add(self._bits, HALF, out=self._bits)
        np.copyto(self._lower, self._bits, casting="unsafe")
        np.right_shift(self._bits, 16, out=self._bits)
        np.copyto(out, self._bits, casting="unsafe")
        # Half up so far. A tie leaves nothing in the lower half, and goes to the even neighbour.
        out.reshape(-1)[np.flatnonzero(np.equal(self._lower, 0, out=self._tied))] &= EVEN

    def _take(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._product = np.empty(shape, np.float32)
        self._bits = np.empty(shape, np.uint32)
        self._weight = self._bits.view(np.float32)
        self._flat = self._weight.reshape(-1)
        self._lower = np.empty(shape, np.uint16)
        self._tied = np.empty(shape, np.bool_)
