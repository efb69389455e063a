"""Compares the answers of base + adapter with those of the merged model, and says when they are the same.

The limits, and why they are where they are:

* Weights in float32 on disk: merged and live model differ by the order of float32 operations only, some 1e-6 of the
  logits' scale in models of usual depth. Allowed: 1e-4 of the scale, and 1e-2 of the adapter's effect (or 1e-5 of
  the scale, the noise itself, where the effect is smaller still). The mildest of the usual mistakes, a missing
  rsLoRA scale, keeps 1/sqrt(r) of the effect: an error of 0.3 to 0.9 of it.
* Weights in bfloat16 or float16: rounding W + delta moves the answers by an amount that no fixed number bounds: it
  depends on model, prompts and on how much of a small delta survives. So it is measured: the live model's
  weights are replaced by the float64 reference, rounded once (`rounded`), which is what a perfect merge gives.
  Allowed: 1.5 times that distance on average and twice at the worst element, plus float32's noise. A perfect merge
  has a ratio of 1.0. When the effect is not well above that distance, answers cannot tell a wrong merge from a
  right one; the check says so, and the tensors' own bound is the proof.
* Features in place of scores (a model without a head) are compared as embeddings, too: the mean of a text's tokens, of
  length 1, by the same limits, and told as the cosine.
* An answer (the class or token with the largest score) may change only where the live model's first two are closer
  than twice the largest difference that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from bot.evidence import Scores
from bot.records import Check

SCALE_LIMIT = 1e-4
EFFECT_LIMIT = 1e-2
NOISE = 1e-5
MEAN_FACTOR = 1.5
WORST_FACTOR = 2.0
SAMPLE = 200  # numbers that the report shows, of some evenly spaced ones
AMONG = 2**16


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The same prompts' answers: of the base, of base + adapter, of a perfectly rounded merge (None: float32)."""

    base: list[Tensor]
    live: list[Tensor]
    rounded: list[Tensor] | None


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far two sets of answers are apart: the largest difference and the root of the mean square."""

    worst: float
    mean: float


def compare(
    expected: Answers, merged: list[Tensor], *, features: bool = False, beside: str = ""
) -> list[Check]:
    """Checks `logits`, `unlike_base`, and `answers`; for `features` in place of scores `embeddings`.

    `beside`: another figure to read the one of `logits` by.
    """
    if [t.shape for t in merged] != [t.shape for t in expected.live]:
        shapes = f"{list(merged[0].shape)} instead of {list(expected.live[0].shape)}"
        return [
            Check(
                name="logits", verdict="failed", figure="", detail=f"The merged model's answers are {shapes}."
            )
        ]
    allowed = limit(expected)
    checks = [_logits(expected, merged, allowed=allowed, beside=beside), _unlike_base(expected, merged)]
    if features:
        return [*checks, _embeddings(expected, merged)]
    return [*checks, _same_answers(expected, merged, allowed=allowed)] if _ranks(expected.live) else checks


def distance(one: list[Tensor], other: list[Tensor]) -> Distance:
    """The distance; infinite where a NaN or infinity stands in one of them only."""
    apart = torch.cat(
        [torch.where(a == b, 0.0, (a - b).abs().double()).flatten() for a, b in zip(one, other, strict=True)]
    )
    apart = apart.nan_to_num(nan=float("inf"), posinf=float("inf"))
    return Distance(worst=float(apart.max()), mean=float(apart.square().mean().sqrt()))


def sampled(expected: Answers, merged: list[Tensor]) -> Scores | None:
    """Some of the answers' numbers, from the least to the largest of base + adapter; None where nothing compares."""
    sets = (expected.base, expected.live, merged)
    if len({tuple(answer.shape for answer in answers) for answers in sets}) > 1:
        return None
    step = 1 + sum(answer.numel() for answer in merged) // AMONG
    base, live, mine = (torch.cat([answer.flatten()[::step] for answer in answers]) for answers in sets)
    known = (base.isfinite() & live.isfinite() & mine.isfinite()).nonzero().flatten()
    if not len(known):
        return None
    order = known[live[known].argsort()]
    chosen = order[torch.linspace(0, len(order) - 1, min(SAMPLE, len(order))).round().long()]
    told = (
        tuple(float(f"{number:.6g}") for number in found[chosen].tolist()) for found in (base, live, mine)
    )
    return Scores(**dict(zip(("base", "adapter", "merged"), told, strict=True)))


def scale_of(answers: list[Tensor]) -> float:
    """The size of the largest finite number."""
    return float(torch.cat([a.flatten()[a.flatten().isfinite()] for a in answers]).double().abs().max())


def limit(expected: Answers, *, scale: float | None = None) -> Distance:
    """The distance that is allowed. `scale`: the size of what float32 computes with, if not that of the answers."""
    size, effect = scale or scale_of(expected.live), distance(expected.live, expected.base)
    if expected.rounded is None:
        worst = min(SCALE_LIMIT * size, max(EFFECT_LIMIT * effect.worst, NOISE * size))
        return Distance(worst=worst, mean=worst)
    noise = distance(expected.rounded, expected.live)
    return Distance(
        worst=WORST_FACTOR * noise.worst + NOISE * size, mean=MEAN_FACTOR * noise.mean + NOISE * size
    )


def _logits(expected: Answers, merged: list[Tensor], *, allowed: Distance, beside: str) -> Check:
    error, effect = distance(merged, expected.live), distance(expected.live, expected.base)
    scale, share = scale_of(expected.live), _share(expected, merged)
    figure = f"largest difference {error.worst:.2g}, effect {effect.worst:.2g}, scale {scale:.2g}"
    figure += f"; {share:.3f} of the effect is in it" if share is not None else ""
    figure += f"; {beside}" if beside else ""
    good = error.worst <= allowed.worst and error.mean <= allowed.mean
    if good:
        detail = "The merged model answers as base + adapter does"
        hidden = effect.mean < 2 * allowed.mean
        detail += "; the effect is within rounding here, so the tensors are the proof." if hidden else "."
    else:
        detail = (
            f"Allowed: {allowed.worst:.2g} at most and {allowed.mean:.2g} on average (is {error.mean:.2g})."
        )
    return Check(name="logits", verdict="passed" if good else "failed", figure=figure, detail=detail)


def _share(expected: Answers, merged: list[Tensor]) -> float | None:
    """How much of the adapter's effect is in the merged model: merged - base projected on live - base."""
    dot = square = 0.0
    for base, live, mine in zip(expected.base, expected.live, merged, strict=True):
        effect, change = (
            (live - base).double().nan_to_num(0, 0, 0),
            (mine - base).double().nan_to_num(0, 0, 0),
        )
        dot, square = dot + float((effect * change).sum()), square + float(effect.square().sum())
    return dot / square if square else None


def _unlike_base(expected: Answers, merged: list[Tensor]) -> Check:
    change = distance(merged, expected.base)
    same = change.worst == 0
    if same and distance(expected.live, expected.base).worst == 0:
        detail = "None of the prompts reaches what the adapter changes: its tensors are the proof."
        return Check(name="unlike_base", verdict="skipped", figure="", detail=detail)
    detail = (
        "Merged equals base: the adapter's effect is not in it."
        if same
        else "The merged model is not the base."
    )
    figure = f"largest difference {change.worst:.2g}"
    return Check(name="unlike_base", verdict="failed" if same else "passed", figure=figure, detail=detail)


def _ranks(answers: list[Tensor]) -> bool:
    """Whether the last dimension is a choice between several."""
    return answers[0].shape[-1] > 1


def _same_answers(expected: Answers, merged: list[Tensor], *, allowed: Distance) -> Check:
    """Top-1 agreement and KL divergence; a changed answer must have been a tie within the limit.

    Of one prompt at a time: where the choice is one of its tokens, each has a width of its own.
    """
    total, flips, unexplained, kl = 0, 0, 0, 0.0
    for one, other in zip(expected.live, merged, strict=True):
        live, mine = (side.reshape(-1, side.shape[-1]).double() for side in (one, other))
        top = live.topk(2, dim=-1)
        flipped = mine.argmax(-1) != top.indices[:, 0]
        unexplained += int((flipped & (top.values[:, 0] - top.values[:, 1] > 2 * allowed.worst)).sum())
        logs = live.log_softmax(-1)
        kl += float((logs.exp() * (logs - mine.log_softmax(-1))).nan_to_num(0.0, float("inf"), 0.0).sum())
        total, flips = total + len(flipped), flips + int(flipped.sum())
    figure = f"{total - flips:,} of {total:,} the same, KL {abs(kl / total):.2g}"
    detail = (
        f"{unexplained} answers changed that were no ties."
        if unexplained
        else "Where answers changed, they were ties."
    )
    detail = detail if flips else "Every answer is the same."
    return Check(name="answers", verdict="failed" if unexplained else "passed", figure=figure, detail=detail)


def _embeddings(expected: Answers, merged: list[Tensor]) -> Check:
    """Cosines of the mean of the tokens' features; their difference is held to the limits of the answers."""
    mine, rounded = _pooled(merged), expected.rounded
    wanted = Answers(
        base=_pooled(expected.base),
        live=_pooled(expected.live),
        rounded=None if rounded is None else _pooled(rounded),
    )
    error, allowed = distance(mine, wanted.live), limit(wanted)
    good = error.worst <= allowed.worst and error.mean <= allowed.mean
    figure = f"cosine at least {_cosine(mine, wanted.live):.7f}; the base's {_cosine(wanted.base, wanted.live):.4f}"
    detail = (
        "The mean of a text's features points where that of base + adapter points."
        if good
        else f"Of length 1, they are {error.worst:.2g} apart at most; allowed: {allowed.worst:.2g}."
    )
    return Check(name="embeddings", verdict="passed" if good else "failed", figure=figure, detail=detail)


def _pooled(features: list[Tensor]) -> list[Tensor]:
    """Features of tokens [texts, tokens, numbers], or of texts [texts, numbers] → one of length 1 for each text."""
    return [
        normalize(each.double().mean(dim=1) if each.ndim == 3 else each.double().flatten(1))
        for each in features
    ]


def _cosine(one: list[Tensor], other: list[Tensor]) -> float:
    """The smallest of all texts."""
    return min(float((a * b).sum(dim=-1).min()) for a, b in zip(one, other, strict=True))
