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
* An answer (the class or token with the largest score) may change only where the live model's first two are closer
  than twice the largest difference that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

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


def compare(expected: Answers, merged: list[Tensor]) -> list[Check]:
    """Checks `logits`, `answers` and `unlike_base`."""
    if [t.shape for t in merged] != [t.shape for t in expected.live]:
        shapes = f"{list(merged[0].shape)} instead of {list(expected.live[0].shape)}"
        return [
            Check(
                name="logits", verdict="failed", figure="", detail=f"The merged model's answers are {shapes}."
            )
        ]
    limit = _limit(expected)
    checks = [_logits(expected, merged, limit=limit), _unlike_base(expected, merged)]
    return [*checks, _same_answers(expected, merged, limit=limit)] if _ranks(expected.live) else checks


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


def _size(answers: list[Tensor]) -> Distance:
    """The scale of finite answers."""
    flat = torch.cat([a.flatten()[a.flatten().isfinite()] for a in answers]).double()
    return Distance(worst=float(flat.abs().max()), mean=float(flat.square().mean().sqrt()))


def _limit(expected: Answers) -> Distance:
    """The distance that is allowed."""
    scale, effect = _size(expected.live), distance(expected.live, expected.base)
    if expected.rounded is None:
        worst = min(SCALE_LIMIT * scale.worst, max(EFFECT_LIMIT * effect.worst, NOISE * scale.worst))
        return Distance(worst=worst, mean=worst)
    noise = distance(expected.rounded, expected.live)
    return Distance(
        worst=WORST_FACTOR * noise.worst + NOISE * scale.worst,
        mean=MEAN_FACTOR * noise.mean + NOISE * scale.worst,
    )


def _logits(expected: Answers, merged: list[Tensor], *, limit: Distance) -> Check:
    error, effect, scale = (
        distance(merged, expected.live),
        distance(expected.live, expected.base),
        _size(expected.live),
    )
    figure = f"largest difference {error.worst:.2g}, effect {effect.worst:.2g}, scale {scale.worst:.2g}"
    share = _share(expected, merged)
    figure += f"; {share:.3f} of the effect is in it" if share is not None else ""
    good = error.worst <= limit.worst and error.mean <= limit.mean
    if good:
        detail = "The merged model answers as base + adapter does"
        hidden = effect.mean < 2 * limit.mean
        detail += "; the effect is within rounding here, so the tensors are the proof." if hidden else "."
    else:
        detail = f"Allowed: {limit.worst:.2g} at most and {limit.mean:.2g} on average (is {error.mean:.2g})."
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


def _same_answers(expected: Answers, merged: list[Tensor], *, limit: Distance) -> Check:
    """Top-1 agreement and KL divergence; a changed answer must have been a tie within the limit."""
    live, mine = (
        torch.cat([t.reshape(-1, t.shape[-1]) for t in side]).double() for side in (expected.live, merged)
    )
    top = live.topk(2, dim=-1)
    flipped = mine.argmax(-1) != top.indices[:, 0]
    unexplained = int((flipped & (top.values[:, 0] - top.values[:, 1] > 2 * limit.worst)).sum())
    logs = live.log_softmax(-1)
    kl = (logs.exp() * (logs - mine.log_softmax(-1))).nan_to_num(0.0, float("inf"), 0.0).sum(-1).mean()
    figure = f"{len(flipped) - int(flipped.sum()):,} of {len(flipped):,} the same, KL {abs(float(kl)):.2g}"
    detail = (
        f"{unexplained} answers changed that were no ties."
        if unexplained
        else "Where answers changed, they were ties."
    )
    detail = detail if flipped.any() else "Every answer is the same."
    return Check(name="answers", verdict="failed" if unexplained else "passed", figure=figure, detail=detail)
