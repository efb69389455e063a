"""Looks once more at a changed tensor that is wrong: what of it the base and the adapter's delta explain.

A merged tensor is taken as W + k·Δ + rest, with k by least squares against the float64 reference. Nothing of this is
computed for tensors that are right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from bot.validate.formula import Expression, Formula
from bot.validate.other_dtype import Stored
from bot.validate.parity import SHORT, AsPeft
from bot.validate.rounding import DIGITS, ulp
from bot.validate.sources import Source, wide
from bot.weights.floats import Array, narrow, widen

BLOCK = 2**16  # elements at a time
# A rest is what rounding leaves when it is below this many times a rounding's own size (that of PEFT's: two of them).
ROUNDINGS = 3.0
SHARE = 0.02  # of the delta: a rest that no longer says that something else is in the tensor


@dataclass
class Direction:
    """Sums over a tensor's elements: of the change times this delta, and of the delta's squares."""

    shared: float = 0.0
    square: float = 0.0

    def add(self, change: Array, delta: Array) -> None:
        """Adds some rows."""
        self.shared += float(np.vdot(change, delta))
        self.square += float(np.vdot(delta, delta))

    @property
    def factor(self) -> float:
        """How many times this delta is in the change."""
        return self.shared / self.square if self.square else 0.0


@dataclass
class Look:
    """What the second look at a tensor gave.

    The squares are sums over the `elements` that were looked at and are finite: of the change against the base, of the
    reference, of the error, and of one rounding to `dtype`. `worst` is the largest error in units in the last place of
    the largest of base, delta and sum, `far` in those of the largest number in its row. `others`: deltas that a usual
    mistake adds in place of the right one. `coarse`: shorter dtypes that hold every number as it is.
    """

    name: str
    dtype: str
    elements: int = 0
    not_finite: int = 0
    worst: float = 0.0
    far: float = 0.0
    change: float = 0.0
    value: float = 0.0
    error: float = 0.0
    rounding: float = 0.0
    has_base: bool = False
    delta: Direction = field(default_factory=Direction)
    others: dict[str, Direction] = field(default_factory=dict)
    coarse: set[str] = field(default_factory=set)

    @property
    def size(self) -> float:
        """The error as a share of what the tensor must be, both by the root of the mean square."""
        return math.sqrt(self.error / self.value) if self.value else math.inf

    @property
    def factor(self) -> float | None:
        """How many times the delta is in the tensor; None where there is no base to tell it from."""
        return self.delta.factor if self.has_base and self.delta.square else None

    @property
    def spread(self) -> float:
        """How far rounding can take `factor` from the truth: four standard errors."""
        if not (self.elements and self.delta.square):
            return 0.0
        noise = max(self.rounding, self.rest(self.delta)) / self.elements
        return 4 * math.sqrt(noise / self.delta.square)

    @property
    def _noise(self) -> float:
        """The squares of roundings to the dtype in which the tensor seems to have been merged."""
        return self.rounding * 4.0 ** (DIGITS[self.dtype][0] - DIGITS[self.shortest or self.dtype][0])

    @property
    def shortest(self) -> str | None:
        """The dtype with the fewest digits that holds every number, where it has fewer than the tensor's own."""
        return min(self.coarse, key=lambda kind: DIGITS[kind][0], default=None)

    def rest(self, direction: Direction) -> float:
        """The squares of what is neither the base nor this delta."""
        return max(0.0, self.change - direction.factor * direction.shared)

    def explained(self, direction: Direction) -> bool:
        """Whether base and delta are all that there is, but for roundings."""
        allowed = ROUNDINGS**2 * self._noise + SHARE**2 * max(direction.factor**2, 1.0) * direction.square
        return bool(direction.square) and self.rest(direction) <= allowed

    @property
    def mistake(self) -> str | None:
        """The name of another delta that explains the tensor, where the right one does not."""
        if self.explained(self.delta):
            return None
        fitting = [name for name, other in self.others.items() if self.explained(other) and self.change]
        return min(fitting, key=lambda name: self.rest(self.others[name]), default=None)


def look_again(
    name: str, merged: Source, *, index: Array, expected: Expression, origin: Source | None
) -> Look:
    """Compares rows of a wrong tensor with base and delta. `origin` is the base's tensor, if it has the shape."""
    others = _mistakes(expected)
    planned = expected.planned if isinstance(expected, Stored) else expected
    dtype = min(merged.dtype, planned.dtype, key=lambda kind: DIGITS[kind][0])
    result = Look(name, dtype, has_base=origin is not None, others={k: Direction() for k in others})
    result.coarse = set(SHORT) if dtype not in SHORT else set()
    step = max(1, BLOCK // max(1, merged.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(0, len(index), step):
            part = index[first : first + step]
            right = expected.rows(part).value
            base = wide(origin, part) if origin is not None else np.zeros_like(right)
            deltas = {key: other.rows(part).value - base for key, other in others.items()}
            _add(result, wide(merged, part), base=base, right=right, others=deltas)
    return result


def _add(result: Look, value: Array, *, base: Array, right: Array, others: dict[str, Array]) -> None:
    """Adds some rows. What is not finite is counted and left out."""
    good = np.isfinite(value) & np.isfinite(right) & np.isfinite(base)
    row = ulp(np.abs(np.where(good, right, 0.0)).max(axis=1, keepdims=True, initial=0.0), dtype=result.dtype)
    far = np.where(good, np.abs(value - right), 0.0) / row
    result.far = max(result.far, float(far.max(initial=0.0)))
    result.not_finite += int(np.count_nonzero(~np.isfinite(value) & np.isfinite(right)))
    value, base, right = value[good], base[good], right[good]
    change, delta, error = value - base, right - base, value - right
    unit = ulp(np.maximum(np.maximum(np.abs(base), np.abs(delta)), np.abs(value)), dtype=result.dtype)
    result.elements += value.size
    result.worst = max(result.worst, float((np.abs(error) / unit).max(initial=0.0)))
    result.change += float(change @ change)
    result.value += float(right @ right)
    result.error += float(error @ error)
    result.rounding += float(unit @ unit) / 12  # the mean square of one rounding is a twelfth of its unit's
    result.delta.add(change, delta)
    for key, other in others.items():
        result.others[key].add(change, other[good])
    result.coarse = {c for c in result.coarse if _holds(value, dtype=c)}


def _holds(value: Array, *, dtype: str) -> bool:
    """Whether a dtype has every one of these numbers."""
    return bool(np.array_equal(widen(narrow(value, dtype), dtype), value))


def _mistakes(expected: Expression) -> dict[str, Formula]:
    """Usual mistakes that are another delta, not another factor of the right one."""
    planned = expected.planned if isinstance(expected, Stored) else expected
    exact = planned.exact if isinstance(planned, AsPeft) else planned
    if not isinstance(exact, Formula) or not exact.left.size:
        return {}
    if exact.magnitude is not None:
        return {"magnitude": replace(exact, magnitude=None)}
    if exact.shape[0] == exact.shape[1] > 1:
        return {"transposed": replace(exact, left=exact.right.T, right=exact.left.T)}
    return {}
