"""What was measured on the way → the report's evidence: few numbers, rounded, whatever the model's size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bot.address import ANY, address
from bot.evidence import ChangedTensor, Errors, Evidence, Spectrum
from bot.validate.found import Found
from bot.validate.measure import BINS, TOP, Measure, median_ulp

MOST = 500  # changed tensors that are told one by one: all of a model without experts
LIMIT = 5_000  # that are told at all
LAYERS = 1_000
TOGETHER = 5  # bins of the measures that make one of the report's, of a twentieth of an ulp
VALUES = 16  # singular values that are told of a layer
DIGITS = 4


def evidence(found: Found, *, answered: Evidence) -> Evidence:
    """Everything that was seen, as the report tells it; `answered` is what asking the models has given."""
    measures = sorted(found.measures, key=lambda m: m.name)
    return replace(
        answered,
        tensors=tuple(_tensor(name, group) for name, group in [*_grouped(measures).items()][:LIMIT]),
        errors=_errors(measures),
        spectra=tuple(_spectra(measures)),
    )


def rounded(number: float) -> float:
    """The number with as many digits as the report tells."""
    return float(f"{number:.{DIGITS}g}")


def _grouped(measures: Sequence[Measure]) -> dict[str, list[Measure]]:
    """Each on its own; of very many, those of one module in one layer together."""
    groups: dict[str, list[Measure]] = {}
    for measure in measures:
        name = measure.name
        if len(measures) > MOST:
            where = address(name)
            name = name if where.layer is None or ANY not in where.module else _joined(name)
        groups.setdefault(name, []).append(measure)
    return groups


def _joined(name: str) -> str:
    """The tensor's name with its numbers behind the first one left open."""
    where = address(name)
    ending = ".weight" if name.endswith(".weight") else ""
    return f"{where.label}.{where.module}{ending}"


def _tensor(name: str, group: Sequence[Measure]) -> ChangedTensor:
    base, delta = sum(m.base_square for m in group), sum(m.delta_square for m in group)
    norm = (delta / base) ** 0.5 if base else math.nan
    worst = max(m.worst_ulp for m in group)
    return ChangedTensor(
        name=name,
        count=len(group),
        relative_norm=rounded(norm) if math.isfinite(norm) else None,
        median_ulp=rounded(median_ulp(_histogram(group))),
        worst_ulp=rounded(worst) if math.isfinite(worst) else None,
        rows=sum(m.elements // max(1, m.columns) for m in group),
        of_rows=sum(m.total // max(1, m.columns) for m in group),
    )


def _histogram(group: Sequence[Measure]) -> np.ndarray:
    return sum((m.histogram for m in group), np.zeros(BINS, dtype=np.int64))


def _errors(measures: Sequence[Measure]) -> Errors | None:
    histogram = _histogram(measures)
    if not histogram.any():
        return None
    counts = histogram.reshape(-1, TOGETHER).sum(axis=1)
    return Errors(width=TOP / len(counts), counts=tuple(int(count) for count in counts))


def _spectra(measures: Sequence[Measure]) -> list[Spectrum]:
    """Of every layer that has low-rank deltas, in the order of the layers."""
    layers: dict[tuple[str, int, str], list[Measure]] = {}
    for measure in measures:
        if measure.energies.any():
            where = address(measure.name)
            number = -1 if where.layer is None else where.layer
            layers.setdefault((where.stack, number, where.label), []).append(measure)
    return [_spectrum(key[-1], layers[key]) for key in sorted(layers)[:LAYERS]]


def _spectrum(layer: str, group: Sequence[Measure]) -> Spectrum:
    rank = max(len(m.energies) for m in group)
    values = np.zeros(rank)
    for measure in group:
        values[: len(measure.energies)] += measure.energies
    shares = values[:VALUES] / values.sum()
    return Spectrum(layer=layer, rank=rank, energy=tuple(rounded(float(share)) for share in shares))
