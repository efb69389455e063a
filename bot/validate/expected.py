"""What the plan promises about each tensor of the merged model: shape, dtype, and whether the adapter changes it."""

from __future__ import annotations

from dataclasses import dataclass

from bot.records import Plan
from bot.weights.header import DTYPES, FLOATS
from bot.weights.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A tensor as the plan promises it; `touched` when a binding makes it."""

    shape: tuple[int, ...]
    dtype: str
    touched: bool


def expected_tensors(plan: Plan, *, base: Layout) -> dict[str, Expected]:
    """Base tensors (but for those that get another name) and planned additions by name, in the base's order."""
    dropped = set(plan.dropped)
    result = {
        name: Expected(shape=spec.shape, dtype=output_dtype(plan, spec.dtype), touched=False)
        for name, spec in base.tensors.items()
        if name not in dropped
    }
    for added in plan.added:
        result[added.name] = Expected(shape=added.shape, dtype=output_dtype(plan, added.dtype), touched=False)
    for binding in plan.bindings:
        dtype = output_dtype(plan, binding.dtype)
        result[binding.tensor] = Expected(shape=binding.shape, dtype=dtype, touched=True)
    return result


def output_dtype(plan: Plan, dtype: str) -> str:
    """The dtype on disk of a tensor that has `dtype` when nothing else is asked for."""
    return DTYPES[plan.dtype] if plan.dtype in DTYPES and dtype in FLOATS else dtype
