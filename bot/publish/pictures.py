"""Which pictures a report has, under which names, and what each shows in words. Drawing is in `bot.publish.plots`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from bot.evidence import Errors, Evidence, Perplexity, Scores, Spectrum
from bot.publish import plots
from bot.publish.escape import plain, without_paths
from bot.publish.grid import Grid, grid
from bot.records import Plan
from bot.wording import counted

FOLDER = "merge_report"
NAMES = ("delta", "errors", "scores", "spectra", "perplexity")
PATHS = tuple(f"{FOLDER}/{name}.png" for name in NAMES)
MOST = 0.9  # of the energy


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture's path below the merged folder, what is to be seen in it, and what draws it.

    `alt` is for those who do not see it; it holds strangers' text.
    """

    path: str
    alt: str
    draw: Callable[[], bytes]


def pictures(found: Evidence) -> tuple[Picture, ...]:
    """The pictures of what was measured, in the order in which they are shown. None is drawn yet."""
    return tuple(_pictures(found))


def figures(found: Evidence, *, plan: Plan) -> list[str]:
    """The pictures as Markdown, each a paragraph, with what they show for those who do not see it."""
    lines = [f"![{plain(without_paths(picture.alt, plan))}]({picture.path})" for picture in pictures(found)]
    return [line for figure in lines for line in (figure, "")][:-1]


def drawn(found: Evidence) -> dict[str, bytes]:
    """Every picture as PNG, by its path."""
    return {picture.path: picture.draw() for picture in pictures(found)}


def _pictures(found: Evidence) -> Iterator[Picture]:
    sizes, errors, scores, spectra = grid(found.tensors), found.errors, found.scores, found.spectra
    if sizes is not None:
        yield Picture(path=PATHS[0], alt=_delta(found, sizes), draw=lambda: plots.delta(sizes))
    if errors is not None and any(errors.counts):
        yield Picture(path=PATHS[1], alt=_errors(errors), draw=lambda: plots.errors(errors))
    if scores is not None and scores.adapter:
        yield Picture(path=PATHS[2], alt=_scores(scores), draw=lambda: plots.scores(scores))
    if any(spectrum.energy for spectrum in spectra):
        yield Picture(path=PATHS[3], alt=_spectra(spectra), draw=lambda: plots.spectra(spectra))
    if (known := found.perplexity) and None not in (known.base, known.adapter, known.merged):
        yield Picture(path=PATHS[4], alt=_perplexity(known), draw=lambda: plots.perplexity(known))


def _delta(found: Evidence, sizes: Grid) -> str:
    known = [tensor for tensor in found.tensors if tensor.relative_norm is not None]
    largest = max(known, key=lambda tensor: tensor.relative_norm or 0.0)
    middle = median(tensor.relative_norm or 0.0 for tensor in known)
    smallest, begin = min(tensor.relative_norm or 0.0 for tensor in known), plots.scale(sizes)[0]
    colours = f" The colours begin at {begin:.2g}, not at zero." if begin else ""
    return (
        f"Heat map of {counted(len(sizes.rows), 'module')} by {counted(sizes.layers, 'layer')}: the norm of the"
        f" adapter's delta against that of the base's weight, at least {smallest:.3g}, {middle:.3g} in the middle,"
        f" at most {largest.relative_norm:.3g} in {largest.name}.{colours}"
    )


def _errors(found: Errors) -> str:
    total, within = sum(found.counts), sum(found.counts[: round(0.5 / found.width)])
    share = f"{within / total:.4%}" if within < total else "all"
    return (
        f"Histogram of the errors of {total:,} merged numbers against a float64 reference, in units in the last place:"
        f" {share} are within the half unit that one rounding takes."
    )


def _scores(found: Scores) -> str:
    merged = max(abs(one - other) for one, other in zip(found.merged, found.adapter, strict=True))
    base = max(abs(one - other) for one, other in zip(found.base, found.adapter, strict=True))
    return (
        f"{len(found.adapter)} numbers of the answers to the same prompts: the merged model's differ from those of"
        f" base + adapter by at most {merged:.2g}, the base's by up to {base:.2g}."
    )


def _spectra(found: tuple[Spectrum, ...]) -> str:
    needed = [_needed(spectrum) for spectrum in found]
    span = f"{min(needed)}" if min(needed) == max(needed) else f"{min(needed)} to {max(needed)}"
    return (
        f"Energy of the singular values of B·A in {len(found)} layers, added up: {span} of"
        f" {max(s.rank for s in found)} values hold {MOST:.0%} of it."
    )


def _perplexity(found: Perplexity) -> str:
    base, adapter, merged = (value or 0.0 for value in (found.base, found.adapter, found.merged))
    return (
        f"Bars of the perplexity on {counted(found.tokens, 'token')} of a text: base {base:.5g}, base + adapter"
        f" {adapter:.5g}, merged model {merged:.5g}."
    )


def _needed(spectrum: Spectrum) -> int:
    """How many of the largest values hold most of the energy; the rank, where they are not among those told."""
    total = 0.0
    for count, share in enumerate(spectrum.energy, start=1):
        total += share
        if total >= MOST - 1e-9:
            return count
    return spectrum.rank
