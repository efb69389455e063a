"""One job, from the request to how it ended: errors become values here, for whoever answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from bot import doctor, pipeline
from bot.connect import publisher
from bot.diagnosis import Diagnosis
from bot.doors.asked import with_destination
from bot.errors import InternalError, MergeBotError, RefusedError, StoppedError, ValidationError
from bot.job import Ended, Failure, Outcome, Verb
from bot.plan.limits import cost
from bot.progress import Progress
from bot.publishing import Gate
from bot.records import Plan, Publication, Report
from bot.request import MergeRequest
from bot.settings import Settings


def work(
    verb: Verb,
    ready: Callable[[], MergeRequest],
    *,
    settings: Settings,
    progress: Progress,
    gate: Gate | None = None,
) -> Outcome:
    """Does it. `ready` makes the request, which may fetch an adapter first; `gate` is asked before a publication.

    Raises what is no `MergeBotError`: a bug, or an interruption; `failed` and `interrupted` say those.
    """
    started = time.monotonic()
    try:
        outcome = _done(verb, ready(), settings=settings, progress=progress, gate=gate)
    except MergeBotError as error:
        outcome = failed(error)
    plan, price = outcome.plan, settings.terms.limits
    if plan is not None and price.cost_per_gb is not None and outcome.report is not None:
        outcome = replace(outcome, cost=cost(price, plan.estimate))
    return replace(outcome, seconds=time.monotonic() - started)


def failed(error: MergeBotError) -> Outcome:
    """The outcome of an error. What was called off has not failed, and a refusal is no fault."""
    ended: Ended = "refused" if isinstance(error, RefusedError) else "failed"
    if isinstance(error, StoppedError):
        ended = "skipped"
    failure = Failure(
        code=error.code, sentence=error.sentence, advice=error.advice, exit_code=type(error).exit_code
    )
    found = error if isinstance(error, ValidationError) else None
    report = found.report if found and isinstance(found.report, Report) else None
    plan = found.plan if found and isinstance(found.plan, Plan) else None
    return Outcome(ended=ended, failure=failure, plan=plan, report=report)


def broken(error: BaseException) -> Outcome:
    """The outcome of an interruption, or of a bug of ours."""
    if isinstance(error, KeyboardInterrupt):
        return failed(
            StoppedError(
                "The run was cancelled; nothing was left half-written.",
                advice="Start it again when you like.",
                code="interrupted",
            )
        )
    return failed(
        InternalError(
            f"merge-bot met a fault of its own ({type(error).__name__}).",
            advice="Report it in the issue tracker of adapter-merge-bot, with the log of the run.",
            code="internal",
        )
    )


def _done(
    verb: Verb, request: MergeRequest, *, settings: Settings, progress: Progress, gate: Gate | None
) -> Outcome:
    if verb == "merge":  # which refuses what is closed, by its name
        return _merge(request, settings=settings, progress=progress, gate=gate)
    if not request.attended and request.requester_access != "yes":
        owned = frozenset(name.casefold() for name in request.requester_owns)
        settings = replace(settings, anonymous=True, owned=owned)  # what is told them, they may read
    return (_plan if verb == "plan" else _doctor)(request, settings=settings, progress=progress)


def _merge(request: MergeRequest, *, settings: Settings, progress: Progress, gate: Gate | None) -> Outcome:
    plan, report, publication = pipeline.run(
        with_destination(request), settings=settings, progress=progress, gate=gate
    )
    done = publication is not None and not publication.existed
    public = publication is not None and _is_public(publication, settings=settings)
    return Outcome(
        ended="published" if done else "skipped",
        plan=plan,
        report=report,
        publication=publication,
        public=public,
    )


def _plan(request: MergeRequest, *, settings: Settings, progress: Progress) -> Outcome:
    """The plan, with what the doctor says of a single adapter; where it cannot be merged, that alone."""
    found = None if request.further else _examined(request, settings=settings, progress=progress)
    if found is not None and found.verdict == "refused":
        return Outcome(ended="refused", diagnosis=found)
    try:
        plan = pipeline.plan(request, settings=settings, progress=progress)
    except MergeBotError as error:
        return replace(failed(error), diagnosis=found)
    return Outcome(ended="skipped", plan=plan, diagnosis=found)


def _doctor(request: MergeRequest, *, settings: Settings, progress: Progress) -> Outcome:
    found = _examined(request, settings=settings, progress=progress)
    return Outcome(ended="refused" if found.verdict == "refused" else "skipped", diagnosis=found)


def _examined(request: MergeRequest, *, settings: Settings, progress: Progress) -> Diagnosis:
    return doctor.doctor(request.adapter, base=request.base, settings=settings, progress=progress)


def _is_public(publication: Publication, *, settings: Settings) -> bool:
    """Whether everybody sees the result; where the Hub does not say so, it is as good as private."""
    if publication.destination.kind == "folder":
        return False
    with suppress(MergeBotError):
        return publisher(settings, publication.destination).is_private(publication.destination) is False
    return False
