"""Compares rows of one changed tensor with their reference, block by block, and gathers the figures of many."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from bot.validate.formula import Expression, Reference
from bot.validate.rounding import DIGITS, half_inverse, power
from bot.validate.sample import EVERY
from bot.validate.sources import Source, wide
from bot.weights.floats import Array, narrow, widen

BINS = 200  # of the errors' histogram, from 0 to TOP units in the last place
TOP = 2.0
BLOCK = 2**16  # elements at a time: their float64 copies mostly stay in the cache
FEW = 4  # of a sample's rows, one in so many tells how large the delta is: that is to describe, not to prove
SAMPLE = 61  # of the columns, one in so many goes into the histogram; fewer where there are not many


@dataclass
class Measure:
    """What one tensor's comparison gave: `elements` of `total` were looked at.

    `worst` is in units of the bound (1 is the limit), `worst_ulp` in ulp. The squares and `changed` are of what was
    looked at. `energies`: σ² of a low-rank delta, the largest first.
    """

    name: str
    total: int
    elements: int = 0
    wrong: int = 0
    worst: float = 0.0
    worst_ulp: float = 0.0
    infinite: int = 0
    changed: bool = False
    base_square: float = 0.0
    change_square: float = 0.0
    delta_square: float = 0.0
    shared: float = 0.0
    histogram: Array = field(default_factory=lambda: np.zeros(BINS, dtype=np.int64))
    columns: int = 1
    energies: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def relative_change(self) -> float:
        """How large the change is against the base's tensor."""
        return float((self.change_square / self.base_square) ** 0.5) if self.base_square else 0.0

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
        self.columns = part.columns


def measure(
    name: str, merged: Source, *, index: Array, expected: Expression, origin: Source | None, sampled: bool
) -> Measure:
    """Compares rows of a merged tensor with what is expected. `sampled`: they are, or are part of, a sample.

    `origin`: the base's tensor of that name or the source, if it has the merged one's shape.
    """
    rows, columns = merged.shape
    result = Measure(name, rows * columns, changed=origin is None, columns=columns)
    step = max(1, BLOCK // max(1, columns))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # what is not finite is counted
        for first in range(0, len(index), step):
            part = index[first : first + step]
            reference = expected.rows(part)
            raw = merged.raw(part)
            value = widen(raw, merged.dtype).astype(np.float64, copy=False)
            _add(result, value, reference=reference)
            if origin is not None:
                described = np.flatnonzero(part // EVERY % FEW == 0) if sampled else slice(None)
                start = reference.start if origin == expected.start else None
                base = wide(origin, part) if start is None else start
                few = value[described], reference.value[described], base[described]
                _describe(result, *few)
                other = None if origin.dtype == merged.dtype else merged.dtype
                if not result.changed:
                    result.changed = _differ(few[0], few[2], dtype=other) or _differ(value, base, dtype=other)
    return result


def _add(result: Measure, value: Array, *, reference: Reference) -> None:
    """Counts what lies outside of its bound. What the rounding alone explains is not looked at any closer."""
    errors = np.subtract(value, reference.value)
    np.multiply(errors, half_inverse(power(reference.value)), out=errors)
    np.abs(errors, out=errors)
    scale = 2.0 ** (DIGITS[reference.tolerance.dtype][0] + 1)  # of the errors in units in the last place
    rounding = reference.tolerance.rounding
    near = errors <= rounding / scale  # a NaN is within no bound
    result.elements += errors.size
    every = max(1, min(SAMPLE, errors.shape[1] // 16))
    result.histogram += _histogram(errors[:, ::every].reshape(-1) * scale)
    if not near.all():
        beyond = np.flatnonzero(~near)
        errors.reshape(-1)[beyond] = 0.0
        _look_closer(result, value, reference=reference, where=beyond)
    largest = float(errors.max(initial=0.0)) * scale
    result.worst_ulp = max(result.worst_ulp, largest)
    result.worst = max(result.worst, largest / rounding if rounding else 0.0)


def _look_closer(result: Measure, value: Array, *, reference: Reference, where: Array) -> None:
    """Holds single elements against their own bounds."""
    rows, columns = np.divmod(where, value.shape[1])
    there, expected = value[rows, columns], reference.value[rows, columns]
    bound, unit = reference.tolerance.at(expected, rows, columns)
    errors = np.abs(there - expected)
    shares = np.where(there == expected, 0.0, errors / bound)  # infinite where nothing is allowed
    result.worst = max(result.worst, _largest(shares))
    result.worst_ulp = max(result.worst_ulp, _largest(errors / unit))
    result.wrong += len(where) - int(np.count_nonzero(shares <= 1))
    result.infinite += int(np.count_nonzero(~np.isfinite(there) & np.isfinite(expected)))


def _histogram(errors: Array) -> Array:
    clipped = np.where(errors < TOP, errors, TOP)  # so are NaN and infinity
    bins = np.minimum(clipped * (BINS / TOP), BINS - 1).astype(np.int64)
    return np.bincount(bins, minlength=BINS)


def _describe(result: Measure, value: Array, expected: Array, base: Array) -> None:
    """Adds up the change against the base, and how much of it is the adapter's delta."""
    change, delta = np.subtract(value, base).reshape(-1), np.subtract(expected, base).reshape(-1)
    flat = base.reshape(-1)
    result.base_square += float(flat @ flat)
    result.change_square += float(change @ change)
    result.delta_square += float(delta @ delta)
    result.shared += float(change @ delta)


def _differ(value: Array, base: Array, *, dtype: str | None) -> bool:
    """Whether merged rows are others than the base's, rounded to `dtype` where that is another than the base's."""
    return not np.array_equal(value, base if dtype is None else widen(narrow(base, dtype), dtype))


def _largest(values: Array) -> float:
    """The largest entry; infinity when there is a NaN."""
    largest = float(values.max()) if values.size else 0.0
    return float("inf") if math.isnan(largest) else largest


def median_ulp(histogram: Array) -> float:
    """The median of the errors, to a hundredth of an ulp."""
    total = histogram.cumsum()
    return float(np.count_nonzero(total < total[-1] / 2)) * TOP / BINS if total[-1] else 0.0
