"""A changed tensor as a formula that is evaluated row by row in float64, with the error that a merge may make.

A merge computes in float32 and rounds once to the dtype on disk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from bot.validate.rounding import SLACK, TINY, U, gamma, summation
from bot.validate.sources import Source, wide
from bot.validate.tolerance import Tolerance
from bot.weights.floats import Array, narrow, widen

ARITHMETIC = 2.0**-15  # 256 roundings of float32: transforms, exponentials and solves of a few hundred terms
BLOCK = 2**16  # elements of a row block of a whole matrix


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What some rows must be (float64), and how far from it they may be.

    `start`: the rows that the formula starts from, if it reads them as they are.
    """

    value: Array
    tolerance: Tolerance
    start: Array | None = None


class Expression(Protocol):
    """What a changed tensor must be, as a matrix of `shape`, in the dtype on disk."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def dtype(self) -> str:
        """The dtype on disk."""

    @property
    def start(self) -> Source | None:
        """What it starts from, where there is such a tensor."""

    def rows(self, index: Array) -> Reference:
        """The reference of the rows of these numbers, ascending."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A changed tensor whose value is known in float64, made by a method that has no formula here.

    `value` is a matrix. float32 arithmetic may be off by `ARITHMETIC` of the largest number in a row.
    """

    value: Array
    dtype: str
    start: Source | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.value.shape[0], self.value.shape[1]

    def rows(self, index: Array) -> Reference:
        """The reference of the rows of these numbers."""
        value = self.value[index].astype(np.float64)
        largest = np.abs(value).max(axis=1, keepdims=True, initial=0.0)
        tolerance = Tolerance(dtype=self.dtype, row=largest * ARITHMETIC, column=np.ones((1, 1)))
        return Reference(value=value, tolerance=tolerance)


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A changed tensor as W + scale·left@right, row by row of the tensor as stored, flattened to a matrix.

    `left` and `right` (float64) are empty for a tensor that is taken over as it is. `magnitude` is DoRA's m; it belongs
    to the rows, or to the columns where the layer stores its weight as (in, out) or is an embedding (`by_column`).
    """

    start: Source
    dtype: str
    left: Array = field(default_factory=lambda: np.empty((0, 0)))
    right: Array = field(default_factory=lambda: np.empty((0, 0)))
    scale: float = 1.0
    magnitude: Array | None = None
    by_column: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.start.shape

    @property
    def needs_all(self) -> bool:
        """Whether any row depends on all others."""
        return self.magnitude is not None and self.by_column

    def rows(self, index: Array) -> Reference:
        """The reference of the rows of these numbers."""
        if not self.left.size:
            start = widen(self.start.raw(index), self.start.dtype)
            value = widen(narrow(start, self.dtype), self.dtype).astype(np.float64)
            return Reference(value=value, tolerance=Tolerance(dtype=self.dtype, rounding=0.0))
        start, value = self._sum(index)
        tolerance = self._tolerance(index)
        if self.magnitude is not None:
            value, tolerance = self._decomposed(value, tolerance, index=index)
        return Reference(value=value, tolerance=tolerance, start=start)

    def _sum(self, index: Array) -> tuple[Array, Array]:
        """W and V = W + s·BA."""
        start = wide(self.start, index)
        value = self._left[index] @ self.right
        return start, np.add(value, start, out=value)

    def _tolerance(self, index: Array) -> Tolerance:
        """float32's error in V: gamma of the products (Cauchy-Schwarz) and u for the sum."""
        rank = self.left.shape[1]
        # A float64 base loses its last bits to float32 first: u·|W|, which is at most u·|V| + u·|s·BA|.
        losses = 1 if self.start.dtype == "F64" else 0
        return Tolerance(
            dtype=self.dtype,
            row=self._row_sizes[index, None] * (gamma(rank + 6) + losses * U),
            column=self._column_sizes[None, :],
            relative=np.full((1, 1), (1 + losses) * U),
            absolute=np.full((1, 1), rank * TINY),
        )

    def _decomposed(self, value: Array, error: Tolerance, *, index: Array) -> tuple[Array, Tolerance]:
        """m·V/‖V‖ and its error: that of V, that of the norm, and four roundings."""
        magnitude = np.asarray(self.magnitude)
        if self.by_column:
            size, relative = self._column_norms
            factor, relative = (magnitude / size)[None, :], relative[None, :]
            column, row = error.column * np.abs(factor), error.row
        else:
            size, relative = _row_norms(value, error)
            factor, relative = (magnitude[index] / size)[:, None], relative[:, None]
            column, row = error.column, error.row * np.abs(factor)
        scaled = replace(
            error,
            row=row * SLACK,
            column=column,
            relative=(error.relative + relative + 4 * U) * SLACK,
            absolute=error.absolute * np.abs(factor) * SLACK,
        )
        return np.multiply(value, factor, out=value), scaled

    @cached_property
    def _left(self) -> Array:
        return self.left * self.scale

    @cached_property
    def _row_sizes(self) -> Array:
        sizes: Array = np.sqrt(np.einsum("ij,ij->i", self._left, self._left))
        return sizes

    @cached_property
    def _column_sizes(self) -> Array:
        sizes: Array = np.sqrt(np.einsum("ij,ij->j", self.right, self.right))
        return sizes

    @cached_property
    def _column_norms(self) -> tuple[Array, Array]:
        rows, columns = self.shape
        squares = np.zeros(columns)
        step = max(1, BLOCK // max(1, columns))
        for first in range(0, rows, step):
            _, value = self._sum(np.arange(first, min(first + step, rows)))
            squares += np.einsum("ij,ij->j", value, value)
        error = self._tolerance(np.arange(rows))
        column = np.sqrt(float(np.sum(error.row**2))) * self._column_sizes
        return _norm(squares, column, error=error, count=rows)


def _row_norms(value: Array, error: Tolerance) -> tuple[Array, Array]:
    """The norms of rows and their relative errors."""
    squares = np.einsum("ij,ij->i", value, value)
    row = error.row[:, 0] * math.sqrt(float(np.sum(error.column**2)))
    return _norm(squares, row, error=error, count=value.shape[1])


def _norm(squares: Array, low_rank: Array, *, error: Tolerance, count: int) -> tuple[Array, Array]:
    """Norms and their relative errors; the norm of the elements' errors is at most the sum of its parts' norms."""
    sizes = np.sqrt(squares)
    errors = low_rank + float(error.relative[0, 0]) * sizes + float(error.absolute[0, 0]) * math.sqrt(count)
    return sizes, errors / sizes + summation(count)
