"""Compares one changed tensor with its reference, in row blocks, and gathers the figures of many."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bot.progress import Progress
from bot.validate.formula import Evaluated, Formula
from bot.validate.rounding import blocks, matrix

BINS = 200  # of the errors' histogram, from 0 to TOP units in the last place
TOP = 2.0
TASK = 2**20  # elements for one thread at a time
SAMPLE = 16  # one in so many errors goes into the histogram


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

    def absorb(self, part: Measure) -> None:
        """Adds what was found in a part of the tensor."""
        self.elements += part.elements
        self.wrong += part.wrong
        self.infinite += part.infinite
        self.worst, self.worst_ulp = max(self.worst, part.worst), max(self.worst_ulp, part.worst_ulp)
        self.changed = self.changed or part.changed
        self.base_square += part.base_square
        self.change_square += part.change_square
        self.delta_square += part.delta_square
        self.shared += part.shared
        self.histogram += part.histogram

    def describe(self) -> str:
        """The tensor's error in words, with the likely reason."""
        text = f"{self.name}: {self.wrong} of {self.elements} elements are wrong, by up to {self.worst_ulp:.3g} ulp"
        if self.share is not None and abs(self.share - 1) > 0.02:
            text += f"; the adapter's delta is in it {self.share:.3g} times"
        return text


def measure(
    name: str,
    merged: Tensor,
    *,
    formula: Formula | Evaluated,
    base: Tensor | None,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Measure:
    """Compares a merged tensor with its formula. `base`: the base's tensor of that name or the source, if any."""
    stored = matrix(merged)
    origin = matrix(base) if base is not None and base.shape == merged.shape else None

    def look(span: tuple[int, int]) -> Measure:
        part = Measure(name, 0, changed=origin is None)
        for first, last in blocks(stored, first=span[0], last=span[1]):
            near = None if origin is None else origin[first:last]
            _add(part, stored[first:last], formula=formula, first=first, origin=near)
        return part

    result = Measure(name, 0)
    for part in pool.map(look, blocks(stored, elements=TASK)):
        result.absorb(part)
        progress.advance(part.elements * stored.element_size())
    return result


def _add(
    result: Measure, rows: Tensor, *, formula: Formula | Evaluated, first: int, origin: Tensor | None
) -> None:
    expected = formula.rows(first, first + rows.shape[0])
    value = rows.double()
    difference = (value - expected.value).abs_()
    result.elements += difference.numel()
    result.wrong += difference.numel() - int((difference <= expected.bound).sum())  # a NaN is within no bound
    if not math.isfinite(_largest(difference)):
        result.infinite += int((value.isfinite().logical_not_() & expected.value.isfinite()).sum())
    errors = difference / expected.unit
    result.worst_ulp = max(result.worst_ulp, _largest(errors))
    sample = errors.flatten()[::SAMPLE].nan_to_num(TOP).clamp_(max=TOP)
    result.histogram += torch.histc(sample, bins=BINS, min=0, max=TOP)
    result.worst = max(result.worst, _largest(difference.div_(expected.bound.clamp_(min=2.0**-1000))))
    if origin is not None:
        _compare_with_base(result, value, expected.value, origin=origin, dtype=rows.dtype)


def _compare_with_base(
    result: Measure, value: Tensor, expected: Tensor, *, origin: Tensor, dtype: torch.dtype
) -> None:
    base = origin.double()
    result.changed = result.changed or not torch.equal(value, origin.to(dtype).double())
    change, delta, base = value.sub_(base).flatten(), expected.sub_(base).flatten(), base.flatten()
    result.base_square += float(base.dot(base))
    result.change_square += float(change.dot(change))
    result.delta_square += float(delta.dot(delta))
    result.shared += float(change.dot(delta))


def _largest(values: Tensor) -> float:
    """The largest entry; infinity when there is a NaN."""
    largest = float(values.max()) if values.numel() else 0.0
    return float("inf") if math.isnan(largest) else largest


def median_ulp(histogram: Tensor) -> float:
    """The median of the errors, to a hundredth of an ulp."""
    total = histogram.cumsum(0)
    return float((total < total[-1] / 2).sum()) * TOP / BINS if total[-1] else 0.0
