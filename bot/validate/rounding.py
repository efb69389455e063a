"""Rounding: distances between numbers of a dtype, error bounds of float32, and matrices in row blocks.

The bounds are those of Higham, Accuracy and Stability of Numerical Algorithms, chapter 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

U = 2.0**-24  # unit roundoff of float32, in which a merge computes
TINY = 2.0**-149  # what an underflow in float32 can lose
EXPONENT = 0x7FF << 52  # the bits of a float64's exponent
SLACK = 1.01  # second-order terms of the bounds
DIGITS = {"F64": (52, -1022), "F32": (23, -126), "F16": (10, -14), "BF16": (7, -126)}


def gamma(count: int) -> float:
    """The relative error that `count` roundings to float32 can add up to."""
    return count * U / (1 - count * U)


def ulp(value: Tensor, *, dtype: str) -> Tensor:
    """The distance of `dtype`'s numbers around each value."""
    digits, lowest = DIGITS[dtype]
    power = (value.contiguous().view(torch.int64) & EXPONENT).view(
        torch.float64
    )  # the power of two at or below
    return power.clamp_(min=2.0**lowest).mul_(2.0**-digits)


def matrix(tensor: Tensor) -> Tensor:
    """The tensor as a matrix: its first dimension and all others."""
    if tensor.ndim == 0:
        return tensor.reshape(1, 1)
    return tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def blocks(
    rows: Tensor, *, first: int = 0, last: int | None = None, elements: int = 2**16
) -> list[tuple[int, int]]:
    """Ranges of rows with about `elements` entries each, so that their float64 copies stay in the cache."""
    step = max(1, elements // max(1, rows.shape[1]))
    end = rows.shape[0] if last is None else last
    return [(start, min(start + step, end)) for start in range(first, end, step)]


def norm(squares: Tensor, errors: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """The norm and its relative error.

    The summation's part is the smaller of Higham's worst case and of 8·√n·u, which holds with near certainty when
    roundings are independent (Higham and Mary, 2019, doi:10.1137/18M1226312).
    """
    norm = squares.sqrt()
    return norm, errors.sqrt() / norm + min(gamma(count), 8 * math.sqrt(count) * U) + 2 * U
