"""Rounding: distances between numbers of a dtype, and error bounds of float32.

The bounds are those of Higham, Accuracy and Stability of Numerical Algorithms, chapter 3.
"""

from __future__ import annotations

import math

import numpy as np

from bot.weights.floats import Array

U = 2.0**-24  # unit roundoff of float32, in which a merge computes
TINY = 2.0**-149  # what an underflow in float32 can lose
EXPONENT = np.int64(0x7FF << 52)  # the bits of a float64's exponent
SLACK = 1.01  # second-order terms of the bounds
# Digits after the leading one, and the lowest power of two with all of them.
DIGITS = {"F64": (52, -1022), "F32": (23, -126), "F16": (10, -14), "BF16": (7, -126)}


def gamma(count: int) -> float:
    """The relative error that `count` roundings to float32 can add up to."""
    return count * U / (1 - count * U)


def ulp(value: Array, *, dtype: str) -> Array:
    """The distance of `dtype`'s numbers around each value (float64)."""
    digits, lowest = DIGITS[dtype]
    powers = power(value)
    np.maximum(powers, 2.0**lowest, out=powers)
    return np.multiply(powers, 2.0**-digits, out=powers)


def power(value: Array) -> Array:
    """The power of two at or below each value (float64)."""
    powers: Array = np.bitwise_and(value.view(np.int64), EXPONENT).view(np.float64)
    return powers


def half_inverse(powers: Array) -> Array:
    """Half the inverses of powers of two, in place and without a division; something else for what has none."""
    bits = powers.view(np.int64)
    inverses: Array = np.subtract(np.int64(2045 << 52), bits, out=bits).view(np.float64)
    return inverses


def summation(count: int) -> float:
    """The relative error of a norm of `count` numbers.

    The smaller of Higham's worst case and of 8·√n·u, which holds with near certainty when roundings are independent
    (Higham and Mary, 2019, doi:10.1137/18M1226312).
    """
    return min(gamma(count), 8 * math.sqrt(count) * U) + 2 * U
