"""Floats of safetensors files in numpy, without torch. bfloat16, which numpy lacks, is the upper half of a float32.

Every rounding is to nearest, ties to even, and made once: IEEE 754-2019, section 4.3.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
RAW: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
HALF = np.uint32(0x8000)  # half a unit in the last place of bfloat16, in the bits of a float32
LOWER = np.uint32(0xFFFF)


def widen(raw: Array, dtype: str) -> Array:
    """The numbers as they lie on disk, exact: float64 for F64, else float32."""
    if dtype == "BF16":
        bits = raw.astype(np.uint32)
        return np.left_shift(bits, 16, out=bits).view(np.float32)
    wide: Array = raw.astype(np.float64 if dtype == "F64" else np.float32)
    return wide


def narrow(values: Array, dtype: str) -> Array:
    """The numbers, float32 or float64, rounded to what lies on disk. Overflow becomes infinity, NaN stays NaN."""
    with np.errstate(over="ignore"):  # whoever writes looks at the result
        if dtype != "BF16":
            return values.astype(RAW[dtype])
        single = values.astype(np.float32)
    bits = single.view(np.uint32)
    if values.dtype == np.float64:
        bits = _untied(bits, values=values, single=single)
    lowest = np.right_shift(bits, 16) & np.uint32(1)
    rounded = np.right_shift(bits + (HALF - np.uint32(1)) + lowest, 16).astype(np.uint16)
    return np.where(np.isnan(single), np.uint16(0x7FC0), rounded)


def _untied(bits: Array, *, values: Array, single: Array) -> Array:
    """Bits of float32 that are no tie where the float64 was none, so that two roundings give what one would."""
    tie = (bits & LOWER) == HALF
    if not tie.any():
        return bits
    beyond, below = np.abs(values) > np.abs(single), np.abs(values) < np.abs(single)
    untied: Array = bits + (tie & beyond).astype(np.uint32) - (tie & below).astype(np.uint32)
    return untied
