"""How far float32 arithmetic with one rounding may take the elements of some rows from their reference."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bot.validate.rounding import ulp
from bot.weights.floats import Array


def _none() -> Array:
    return np.zeros((1, 1))


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """The arithmetic's error in an element: row·column + relative·|value| + absolute; then it is rounded to `dtype`.

    Each is a matrix (float64) that numpy stretches to the rows' shape, and is never made that large: most elements
    are so close to their reference that the rounding alone explains it, and only the others' errors are looked at.
    `rounding` is in units in the last place: a half, or nothing where the reference is rounded itself.
    """

    dtype: str
    row: Array = field(default_factory=_none)
    column: Array = field(default_factory=_none)
    relative: Array = field(default_factory=_none)
    absolute: Array = field(default_factory=_none)
    rounding: float = 0.5

    def at(self, value: Array, rows: Array, columns: Array) -> tuple[Array, Array]:
        """The bounds of single elements, and the units in the last place that they stand in."""
        size = np.abs(value)
        row, column, relative, absolute = (
            _pick(part, rows, columns) for part in (self.row, self.column, self.relative, self.absolute)
        )
        error = row * column + relative * size + absolute
        unit = ulp(size + error, dtype=self.dtype)
        return error + unit * self.rounding, unit


def _pick(part: Array, rows: Array, columns: Array) -> Array:
    """Single elements of a matrix that is stretched along its sides of length one."""
    height, width = part.shape
    picked: Array = part[rows if height > 1 else 0, columns if width > 1 else 0]
    return picked
