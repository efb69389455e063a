"""A changed tensor as a formula that is evaluated row by row in float64, with the error that a merge may make.

A merge computes in float32 and rounds once to the dtype on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from bot.validate.rounding import SLACK, TINY, U, blocks, gamma, norm, ulp
from bot.weights.reader import TORCH_DTYPES

ARITHMETIC = 2.0**-15  # 256 roundings of float32: transforms, exponentials and solves of a few hundred terms


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a tensor must be, and how far float32 arithmetic with one rounding may take an element from it.

    `unit` is the distance of the dtype's numbers there: one unit in the last place.
    """

    value: Tensor
    bound: Tensor
    unit: Tensor


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A changed tensor whose value is known in float64, made by a method that has no formula here.

    `start` is the value, as a matrix. float32 arithmetic may be off by `ARITHMETIC` of the largest number in a row.
    """

    start: Tensor
    dtype: str

    @property
    def length(self) -> int:
        """How many rows there are."""
        return self.start.shape[0]

    def rows(self, first: int, last: int) -> Reference:
        """The reference of the rows `first` to `last` (exclusive), as a matrix."""
        value = self.start[first:last].double()
        error = value.abs().amax(dim=1, keepdim=True).mul(ARITHMETIC).expand_as(value)
        unit = ulp(value.abs() + error, dtype=self.dtype)
        return Reference(value=value, bound=unit.mul(0.5).add_(error), unit=unit)


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A changed tensor as W + scale·left@right, row by row of the tensor as stored, flattened to a matrix.

    `left` is empty for a tensor that is taken over as it is. `magnitude` is DoRA's m; it belongs to the rows, or to
    the columns where the layer stores its weight as (in, out) or is an embedding (`by_column`).
    """

    start: Tensor
    dtype: str
    left: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    right: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    scale: float = 1.0
    magnitude: Tensor | None = None
    by_column: bool = False

    @property
    def length(self) -> int:
        """How many rows there are."""
        return self.start.shape[0]

    def rows(self, first: int, last: int) -> Reference:
        """The reference of the rows `first` to `last` (exclusive), as a matrix."""
        if not self.left.numel():
            value = self.start[first:last].to(TORCH_DTYPES[self.dtype]).double()
            unit = ulp(value, dtype=self.dtype)
            return Reference(value=value, bound=torch.zeros_like(value), unit=unit)
        value, error = self._sum(first, last)
        if self.magnitude is not None:
            value, error = self._decomposed(value, error, magnitude=self.magnitude, rows=slice(first, last))
        unit = ulp(value.abs().add_(error), dtype=self.dtype)
        return Reference(value=value, bound=error.add_(unit, alpha=0.5), unit=unit)

    def _sum(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """V = W + s·BA and float32's error in it: gamma of the products (Cauchy-Schwarz) and u for the sum."""
        left = self.left[first:last].double()
        weight = self.start[first:last].double()
        value = torch.addmm(weight, left, self._right, alpha=self.scale)
        products = torch.linalg.vector_norm(left, dim=1, keepdim=True) * self._column_sizes
        rank = left.shape[1]
        error = products.mul_(abs(self.scale) * gamma(rank + 6)).add_(value.abs(), alpha=U).add_(rank * TINY)
        if self.start.dtype == torch.float64:  # a float64 base loses its last bits to float32 first
            error.add_(weight.abs(), alpha=U)
        return value, error

    def _decomposed(
        self, value: Tensor, error: Tensor, *, magnitude: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """m·V/‖V‖ and its error: that of V, that of the norm, and four roundings."""
        if self.by_column:
            size, relative = self._column_norms
            factor = (magnitude.double() / size).unsqueeze(0)
        else:
            size, relative = norm(value.square().sum(1), error.square().sum(1), count=value.shape[1])
            factor, relative = (
                (magnitude[rows].double() / size).unsqueeze(1),
                relative.unsqueeze(1),
            )
        result = value * factor
        own = result.abs().mul_(relative + 4 * U)
        return result, error.mul_(factor.abs()).add_(own).mul_(SLACK)

    @cached_property
    def _right(self) -> Tensor:
        return self.right.double()

    @cached_property
    def _column_sizes(self) -> Tensor:
        sizes: Tensor = torch.linalg.vector_norm(self._right, dim=0, keepdim=True)
        return sizes

    @cached_property
    def _column_norms(self) -> tuple[Tensor, Tensor]:
        columns = self.start.shape[1]
        squares, errors = torch.zeros(columns, dtype=torch.float64), torch.zeros(columns, dtype=torch.float64)
        for first, last in blocks(self.start):
            value, error = self._sum(first, last)
            squares += value.square_().sum(0)
            errors += error.square_().sum(0)
        return norm(squares, errors, count=self.length)
