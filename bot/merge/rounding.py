"""Rounds merged numbers to their dtype on disk, once, and refuses what does not survive it."""

from __future__ import annotations

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

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.raw = np.empty(shape, np.uint16)
        self.product = np.empty(shape, np.float32)
        self._bits = np.empty(shape, np.uint32)
        self._upper = np.empty(shape, np.uint16)
        self._lower = np.empty(shape, np.uint16)

    def widen(self) -> Array:
        """What was read into `raw` as float32, to be changed in place and given to `rounded`."""
        self._bits[...] = self.raw
        np.left_shift(self._bits, 16, out=self._bits)
        return self._bits.view(np.float32)

    def rounded(self, *, name: str) -> Array:
        """What became of the widened numbers, rounded; valid until the next block."""
        flat = self._bits.view(np.float32).reshape(-1)
        squares = flat.dot(flat)  # a tenth of isfinite's time
        if not np.isfinite(squares):  # something is above 1e19, or not finite
            return rounded(self._bits.view(np.float32), dtype="BF16", name=name)
        np.add(self._bits, HALF, out=self._bits)
        np.copyto(self._lower, self._bits, casting="unsafe")
        np.right_shift(self._bits, 16, out=self._bits)
        np.copyto(self._upper, self._bits, casting="unsafe")
        # Half up so far. A tie leaves nothing in the lower half, and goes to the even neighbour.
        self._upper.reshape(-1)[np.flatnonzero(self._lower == 0)] &= EVEN
        return self._upper
