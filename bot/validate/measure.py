"""Compares one changed tensor with its reference, in row blocks, and gathers the figures of many."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bot.progress import Progress
from bot.validate.formula import Formula
from bot.validate.rounding import blocks, matrix, ulp

BINS = 200  # of the errors' histogram, from 0 to TOP units in the last place
TOP = 2.0


@dataclass
class Measure:
    """What one tensor's comparison gave. `worst` is in units of the bound (1 is the limit), `worst_ulp` in ulp."""

    name: str
    elements: int
    wrong: int = 0
    worst: float = 0.0
    worst_ulp: float = 0.0
    infinite: int = 0
    changed: bool = False
    base_square: float = 0.0
    change_square: float = 0.0
    delta_square: float = 0.0
    shared: float = 0.0
    histogram: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    @property
    def relative_change(self) -> float:
        """How large the change is against the base's tensor."""
        return float((self.change_square / self.base_square) ** 0.5) if self.base_square else 0.0

    @property
    def share(self) -> float | None:
        """How many times the adapter's delta is in the merged tensor: 1 when right; None without a delta."""
        return self.shared / self.delta_square if self.delta_square else None

    def describe(self) -> str:
        """The tensor's error in words, with the likely reason."""
        text = f"{self.name}: {self.wrong} of {self.elements} elements are wrong, by up to {self.worst_ulp:.3g} ulp"
        if self.share is not None and abs(self.share - 1) > 0.02:
            text += f"; the adapter's delta is in it {self.share:.3g} times"
        return text


def measure(
    name: str, merged: Tensor, *, formula: Formula, base: Tensor | None, progress: Progress
) -> Measure:
    """Compares a merged tensor with its formula. `base`: the base's tensor of that name or the source, if any."""
    stored = matrix(merged)
    origin = matrix(base) if base is not None and base.shape == merged.shape else None
    result = Measure(name, stored.numel(), changed=origin is None)
    for first, last in blocks(stored):
        rows = stored[first:last]
        _add(
            result, rows, formula=formula, first=first, origin=None if origin is None else origin[first:last]
        )
        progress.advance(rows.numel() * rows.element_size())
    return result


def _add(result: Measure, rows: Tensor, *, formula: Formula, first: int, origin: Tensor | None) -> None:
    expected = formula.rows(first, first + rows.shape[0])
    value = rows.double()
    difference = (value - expected.value).abs_()
    result.wrong += int((difference <= expected.bound).logical_not_().sum())  # a NaN is not within any bound
    result.infinite += int((value.isfinite().logical_not_() & expected.value.isfinite()).sum())
    errors = difference / ulp(expected.value, dtype=formula.dtype)
    result.worst_ulp = max(result.worst_ulp, _largest(errors))
    result.histogram += torch.histc(errors.nan_to_num_(TOP).clamp_(max=TOP), bins=BINS, min=0, max=TOP)
    result.worst = max(result.worst, _largest(difference / expected.bound.clamp_(min=2.0**-1000)))
    if origin is not None:
        _compare_with_base(result, value, expected.value, origin=origin, dtype=rows.dtype)


def _compare_with_base(
    result: Measure, value: Tensor, expected: Tensor, *, origin: Tensor, dtype: torch.dtype
) -> None:
    base, unchanged = origin.double(), origin.to(dtype).double()
    result.changed = result.changed or not torch.equal(value, unchanged)
    change, delta = value.sub_(base), expected.sub_(base)
    result.base_square += float(base.square().sum())
    result.change_square += float(change.square().sum())
    result.delta_square += float(delta.square().sum())
    result.shared += float((change * delta).sum())


def _largest(values: Tensor) -> float:
    """The largest entry; infinity when there is a NaN."""
    largest = float(values.max()) if values.numel() else 0.0
    return float("inf") if math.isnan(largest) else largest


def median_ulp(histogram: Tensor) -> float:
    """The median of the errors, to a hundredth of an ulp."""
    total = histogram.cumsum(0)
    return float((total < total[-1] / 2).sum()) * TOP / BINS if total[-1] else 0.0
