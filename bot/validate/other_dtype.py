"""A changed tensor that another tool stored in another dtype than planned: what it may be then.

That the dtype is another one is said by the check of the headers. Here the numbers are held against the reference as
far as both dtypes can tell, so that a merge in another precision is not taken for a wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bot.validate.formula import Expression, Reference
from bot.validate.rounding import DIGITS, ulp
from bot.validate.sources import Source
from bot.weights.floats import Array


@dataclass(frozen=True, kw_only=True)
class Stored:
    """`planned`, on disk as `stored`: rounded once to each of the two, in whichever order."""

    planned: Expression
    stored: str

    @property
    def dtype(self) -> str:
        """The dtype on disk."""
        return self.stored

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.planned.shape

    @property
    def start(self) -> Source | None:
        """What it starts from, where there is such a tensor."""
        return self.planned.start

    def rows(self, index: Array) -> Reference:
        """The reference of the rows of these numbers."""
        found = self.planned.rows(index)
        fine, coarse = sorted((self.planned.dtype, self.stored), key=lambda dtype: -DIGITS[dtype][0])
        more = ulp(
            np.abs(found.value), dtype=fine
        )  # half a unit, and as much where the next power of two begins
        absolute = found.tolerance.absolute + more
        return replace(
            found, tolerance=replace(found.tolerance, dtype=coarse, absolute=absolute, rounding=0.5)
        )


def as_stored(planned: Expression, *, dtype: str) -> Expression:
    """`planned` itself where it has that dtype."""
    return planned if planned.dtype == dtype else Stored(planned=planned, stored=dtype)
