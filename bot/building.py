"""Merge and checks as one step: what is written is proven on the way, and what has not passed is never finished."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bot import reporting
from bot.errors import ValidationError
from bot.isolation import room
from bot.machine import machine
from bot.plan import card
from bot.prepare import Prepared
from bot.progress import Progress
from bot.provenance import Ran
from bot.publish import model_card, provenance
from bot.publish.result import CARD_FILE, PLAN_FILE, PROVENANCE_FILE, REPORT_FILE, write, write_record
from bot.records import MergedModel, Plan, Report
from bot.request import MergeRequest
from bot.several import ORIGINAL
from bot.sources import Sources
from bot.validate import thresholds
from bot.validate.report import versions

THRESHOLDS = "Look at the adapter's training, or have whoever runs the bot raise the threshold."
OURS = "Nothing was published; please report it with the adapter's and the base's names."
BESIDE_WEIGHTS = 2**30  # bytes: tokenizers, headers, what libraries write for themselves


def build(
    prepared: Prepared, sources: Sources, *, out: Path, request: MergeRequest, progress: Progress
) -> tuple[MergedModel, Report | None]:
    """Merges into `out`, checks it, and writes down how it came about. Raises ValidationError for a failed check."""
    plan, started = prepared.plan, now()
    done = room.call(
        "bot.work:make",
        plan,
        base=prepared.layout,
        config=prepared.config,
        base_folder=sources.base.absolute(),
        adapter_folder=sources.adapter.absolute(),
        out=out.absolute(),
        request=request,
        originals=originals(plan),
        largest_file=plan.estimate.disk_bytes + BESIDE_WEIGHTS,
        progress=progress,
    )
    return finish(prepared, sources, out=out, request=request, done=done, started=started, progress=progress)


def originals(plan: Plan) -> dict[str, str]:
    """The adapter's files that are copied, by their new names: its config, of several adapters all of them."""
    return {ORIGINAL: "adapter_config.json" if plan.recipe is None else ORIGINAL}


def finish(
    prepared: Prepared,
    sources: Sources,
    *,
    out: Path,
    request: MergeRequest,
    done: tuple[MergedModel, Report | None],
    started: str,
    progress: Progress,
) -> tuple[MergedModel, Report | None]:
    """Writes down how a merge that is `done` came about, beside it. Raises ValidationError for a failed check."""
    plan, (merged, report) = prepared.plan, done
    if report is not None:
        report = thresholds.held(replace(report, isolation=room.isolation()), request.thresholds)
        report = passed(report, plan=plan)
        progress.say("Writing the report")
        write_record(out / REPORT_FILE, report)
        reporting.beside(out, plan, report)
    adapter_card, *further_cards, base_card = cards_of(prepared)
    text = model_card.model_card(
        plan,
        report=report,
        adapter_card=adapter_card,
        further_cards=further_cards,
        base_card=base_card,
        destination=request.destination,
    )
    write(out / CARD_FILE, text)
    write_record(out / PLAN_FILE, plan)
    _sign_off(prepared, sources, out=out, request=request, done=(merged, report), started=started)
    return merged, report


def _sign_off(
    prepared: Prepared,
    sources: Sources,
    *,
    out: Path,
    request: MergeRequest,
    done: tuple[MergedModel, Report | None],
    started: str,
) -> None:
    """Writes down where the result comes from, last, because that speaks of every other file."""
    merged, report = done
    ran = Ran(
        started=started,
        finished=now(),
        machine=machine(),
        versions=report.versions if report else versions(),
        isolation=room.isolation(),
    )
    text = provenance.statement(
        out, prepared.plan, request=request, inputs=sources.inputs, merged=merged, report=report, ran=ran
    )
    write(out / PROVENANCE_FILE, text)


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check(
    folder: Path,
    prepared: Prepared,
    sources: Sources,
    *,
    request: MergeRequest,
    progress: Progress,
) -> Report:
    """Checks a merged folder. What is wrong is in the report."""
    report: Report = room.call(
        "bot.work:check",
        folder.absolute(),
        prepared.plan,
        base=prepared.layout,
        config=prepared.config,
        base_folder=sources.base.absolute(),
        adapter_folder=sources.adapter.absolute(),
        request=request,
        progress=progress,
    )
    return replace(report, isolation=room.isolation())


def passed(report: Report, *, plan: Plan, advice: str = OURS) -> Report:
    """The report, when no check failed. Raises ValidationError, with plan and report, when one did."""
    if report.verdict == "failed":
        failed = [c for c in report.checks if c.verdict == "failed"]
        raise ValidationError(
            f"The merged model failed {len(failed)} of {len(report.checks)} checks, the first is {failed[0].name}:"
            f" {failed[0].detail}",
            advice=THRESHOLDS if failed[0].name == thresholds.NAME else advice,
            code=f"validation-{failed[0].name}",
            report=report,
            plan=plan,
        )
    return report


def cards_of(prepared: Prepared) -> tuple[str | None, ...]:
    """The cards of every adapter, then the base's."""
    return tuple(card.read(m.files) for m in (*(prepared.further or (prepared.adapter,)), prepared.base))
