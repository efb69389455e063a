"""What base, base + adapter and the merged model said → checks, and the evidence for them."""

from __future__ import annotations

from dataclasses import replace

from bot.evidence import Evidence
from bot.records import Check
from bot.validate import continuations, perplexity
from bot.validate.answers import compare, limit, sampled, scale_of
from bot.validate.baseline import Half, baseline, beside
from bot.validate.questions import Asked, Questions, Told
from bot.validate.speed import speed


def compared(
    questions: Questions, asked: Asked, merged: Told, *, half: Half | None
) -> tuple[list[Check], Evidence]:
    """Checks `logits`, `unlike_base`, `answers` or `embeddings`; `perplexity` and `continuations` where asked for."""
    expected = asked.answers
    checks = compare(
        expected, merged.answers, features=questions.features, beside=beside(half, live=expected.live)
    )
    if len(checks) == 1:  # answers of another shape: there is nothing to compare
        return checks, Evidence()
    found = Evidence(
        scores=sampled(expected, merged.answers),
        baseline=baseline(half, live=expected.live, merged=merged.answers),
        speed=speed(adapter=asked.live.pace, merged=merged.pace, device=questions.device),
    )
    for name, add in (("perplexity", _perplexity), ("continuations", _continuations)):
        silent = _silent(name, asked=asked, merged=merged)
        more, found = ([silent], found) if silent else add(questions, asked, merged, found)
        checks += more
    return checks, found


def _perplexity(
    questions: Questions, asked: Asked, merged: Told, found: Evidence
) -> tuple[list[Check], Evidence]:
    losses = asked.losses
    if questions.passage is None or losses is None or merged.losses is None:
        return [], found
    scale = scale_of(asked.live.answers)
    check, figures = perplexity.compare(questions.passage, losses, merged.losses, scale=scale)
    return [check], replace(found, perplexity=figures)


def _continuations(
    questions: Questions, asked: Asked, merged: Told, found: Evidence
) -> tuple[list[Check], Evidence]:
    if not questions.starts:
        return [], found
    check, texts = continuations.compare(
        questions.starts,
        base=asked.base.continued,
        live=asked.live.continued,
        merged=merged.continued,
        rounded=asked.rounded.continued if asked.rounded else None,
        limit=limit(asked.answers).worst,
        tokenizer=questions.tokenizer,
    )
    return [check], replace(found, continuations=texts)


def _silent(name: str, *, asked: Asked, merged: Told) -> Check | None:
    """The check that cannot be made: base + adapter or the merged model failed at it, or the base already did."""
    for who, told in (("The base", asked.base), ("The rounded reference", asked.rounded)):
        if told is not None and (why := told.silent.get(name)):
            return Check(name=name, verdict="skipped", figure="", detail=f"{who} does not answer: {why}.")
    for who, told in (("Base + adapter", asked.live), ("The merged model", merged)):
        if why := told.silent.get(name):
            return Check(name=name, verdict="failed", figure="", detail=f"{who} does not answer: {why}.")
    return None
