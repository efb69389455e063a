"""The wider bound for a merge that rounds as PEFT does: in the base's own dtype, more than once.

PEFT adds a LoRA's delta in float32 or rounds it first, and lets other layers multiply and sum in the base's dtype. So
each element may be off by a rounding of its delta and, where a layer computes in 16 bits, by some roundings of the
largest number in its row. A float32 base has no such roundings: there the bound stays that of float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bot.validate.formula import Evaluated, Expression, Formula, Reference
from bot.validate.rounding import ulp
from bot.validate.sources import Source, wide
from bot.weights.floats import Array

# Of a row's largest number. The worst of all tiny tuners (FRoD, a product of three matrices) needs 1.24 of them in
# bfloat16 and 1.31 in float16 beyond the bound of an exact merge, OLoRA 0.95, all others less than 0.8; at a width of
# 512 none needs more than 1.19. The worst delta needs half a rounding, and gets a whole one.
ROUNDINGS = 4
SHORT = ("BF16", "F16")
TAKEN = frozenset({"replace", "copy"})
LOW_RANK = frozenset({"lora", "lora_bias", "lora_parameter"})


@dataclass(frozen=True, kw_only=True)
class AsPeft:
    """A formula or value with the bound of PEFT's arithmetic.

    `base` is what a delta is added to, None where it is not known or the method adds none. `largest`: the largest
    number of a tensor whose rows are single numbers (a bias), else zero.
    """

    exact: Formula | Evaluated
    base: Source | None
    largest: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.exact.shape

    @property
    def dtype(self) -> str:
        """The dtype on disk."""
        return self.exact.dtype

    @property
    def start(self) -> Source | None:
        """What it starts from, where there is such a tensor."""
        return self.exact.start

    def rows(self, index: Array) -> Reference:
        """The reference of the rows of these numbers."""
        found = self.exact.rows(index)
        more = self._roundings(found, index=index)
        tolerance = replace(found.tolerance, absolute=found.tolerance.absolute + more)
        return replace(found, tolerance=tolerance)

    def _roundings(self, found: Reference, *, index: Array) -> Array:
        """One of each element's delta, or some of each row's largest number."""
        if self.base is not None:
            start = wide(self.base, index) if found.start is None else found.start
            return ulp(np.abs(found.value - start), dtype=self.dtype)
        largest = np.abs(found.value).max(axis=1, keepdims=True, initial=self.largest)
        return ROUNDINGS * ulp(largest, dtype=self.dtype)


def as_peft(found: Formula | Evaluated, *, method: str, base: Source | None) -> Expression:
    """`found` with the wider bound, unless the tensor is taken as it is or lies in float32.

    `base`: what the tensor starts from, when it has its shape.
    """
    if found.dtype not in SHORT or method in TAKEN:
        return found
    largest = 0.0
    if isinstance(found, Evaluated) and found.shape[1] == 1:
        largest = float(np.abs(found.value).max(initial=0.0))
    return AsPeft(exact=found, base=base if method in LOW_RANK else None, largest=largest)
