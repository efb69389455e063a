"""What whoever runs the bot wants of a merge beside that it is right: a check of the figures that were measured."""

from __future__ import annotations

from dataclasses import replace

from bot.records import Check, Report, Verdict
from bot.request import Thresholds

NAME = "thresholds"


def held(report: Report, wanted: Thresholds) -> Report:
    """The report with the check `thresholds`, where something is wanted. What was not measured is not reached."""
    if wanted == Thresholds():
        return report
    figures, missed = [], []
    for name, value, most in (
        ("largest change of a tensor", _change(report), wanted.change),
        ("perplexity of merged by adapter", _perplexity(report), wanted.perplexity),
    ):
        if most is None:
            continue
        figures.append(
            f"{name} {'not measured' if value is None else format(value, '.3g')} (at most {most:g})"
        )
        if value is None or not value <= most:
            missed.append(name)
    verdict: Verdict = "failed" if missed else "passed"
    detail = "Every figure is within what was asked for."
    if missed:
        detail = f"More than was asked for, or not measured: {', '.join(missed)}."
    check = Check(name=NAME, verdict=verdict, figure="; ".join(figures), detail=detail)
    return replace(report, checks=(*report.checks, check), verdict="failed" if missed else report.verdict)


def _change(report: Report) -> float | None:
    """The largest norm of a delta against the base's tensor (Frobenius); a tensor that is new has none."""
    norms = [t.relative_norm for t in report.evidence.tensors if t.relative_norm is not None]
    return max(norms, default=None)


def _perplexity(report: Report) -> float | None:
    found = report.evidence.perplexity
    if found is None or found.adapter is None or found.merged is None:
        return None
    return found.merged / found.adapter
