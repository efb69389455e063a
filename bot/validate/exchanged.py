"""Tensors in each other's place: one that holds what belongs into another of its layer, gate and up for instance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from bot.address import address
from bot.validate.causes import Cause
from bot.validate.formula import Expression
from bot.validate.measure import measure, median_ulp
from bot.validate.sources import Source
from bot.weights.floats import Array

MOST = 8  # others that are tried
NEAR = 1.0  # ulp: the median error of numbers that are the other's but for roundings; any other number is far off


def beside(name: str, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """The other tensors of the same layer and shape."""
    label, shape = address(name).label, shapes[name]
    others = (o for o, s in shapes.items() if s == shape and o != name and address(o).label == label)
    return list(others)[:MOST]


def holds(merged: Source, other: Expression, *, index: Array) -> bool:
    """Whether these rows are what another tensor must be."""
    found = measure("", merged, index=index, expected=other, origin=None, sampled=False)
    return median_ulp(found.histogram) < NEAR


def exchanged(
    causes: Iterable[Cause], *, shapes: Mapping[str, tuple[int, ...]], is_at: Callable[[str, str], bool]
) -> list[Cause]:
    """The causes, where a tensor's numbers belong into one beside it.

    `shapes`: of all changed tensors. `is_at(name, other)` says whether a tensor holds what belongs into the other.
    """
    result, odd = list(causes), {}
    for cause in result:
        if cause.kind == "other":
            odd[cause.look.name] = shapes[cause.look.name]
    for number, cause in enumerate(result):
        name = cause.look.name
        other = next((o for o in beside(name, odd) if is_at(name, o)), None) if name in odd else None
        if other is not None:
            result[number] = replace(cause, kind="mistake", words=(belongs(other),))
    return result


def belongs(other: str) -> str:
    """What is wrong with a tensor that holds another one's numbers: the same words in every layer."""
    return f"it holds what belongs into {other.removeprefix(f'{address(other).label}.')}"
