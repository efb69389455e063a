"""The stages in order: the table of contents of the bot."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from bot import publishing, reporting
from bot.admission import check_publication, reopened
from bot.building import build, cards_of, check, passed
from bot.connect import LazyHub, publisher
from bot.errors import InputError, RefusedError
from bot.isolation import room
from bot.opening import reopen
from bot.plan import card, shardwise
from bot.progress import Progress
from bot.publish import folder as folders
from bot.publish import provenance
from bot.publish.disk import own_scratch
from bot.publish.result import PLAN_FILE, REPORT_FILE, read_plan, read_report, write_record
from bot.records import MergedModel, Plan, Publication, Report
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from bot.several import prepare
from bot.shardwise import flow
from bot.sources import fetched

WRONG = (
    "Do not use this model as base + adapter; `merge-bot merge` makes one that passes, or says why it cannot."
)
AHEAD = ("bot.work", "bot.merge.run", "bot.validate.witness")  # what every merge needs, and no torch


def plan(request: MergeRequest, *, settings: Settings, progress: Progress) -> Plan:
    """What a merge would do, from JSON files and headers alone. Raises what stands in its way."""
    with room.opened(settings):
        return prepare(request, hub=LazyHub(settings), progress=progress, terms=settings.terms).plan


def merge(
    request: MergeRequest, *, settings: Settings, progress: Progress
) -> tuple[Plan, MergedModel | None, Report | None]:
    """Plans, merges and checks into the folder of the request. The model is None when it is there already.

    Raises MergeBotError; then the folder is as it was before.
    """
    with room.opened(settings, soon=AHEAD):
        return _merge(request, settings=settings, progress=progress)


def _merge(
    request: MergeRequest, *, settings: Settings, progress: Progress
) -> tuple[Plan, MergedModel | None, Report | None]:
    hub = LazyHub(settings)
    prepared = prepare(request, hub=hub, progress=progress, terms=settings.terms)
    folder = Path(_destination(request).location)
    if folders.check(folder, key=prepared.plan.key) == "finished":
        progress.say(f"{folder} holds this merge already.")
        return prepared.plan, None, read_report(folder)
    scratch = partial(_scratch, settings, plan=prepared.plan)
    needed = prepared.plan.estimate.output_bytes
    with (
        fetched(prepared, hub=hub, scratch=scratch, progress=progress) as sources,
        folders.staging(
            scratch() if request.dry_run else folder, key=prepared.plan.key, needed=needed
        ) as staged,
    ):
        merged, report = build(prepared, sources, out=staged.folder, request=request, progress=progress)
        if not request.dry_run:
            staged.finish()
    return prepared.plan, replace(merged, folder=str(folder)), report


def validate(folder: Path, request: MergeRequest, *, settings: Settings, progress: Progress) -> Report:
    """Checks a folder against a plan made anew from adapter and base. Writes the report into a folder of ours.

    Raises ValidationError, with the report, when a check failed.
    """
    hub = LazyHub(settings)
    with room.opened(settings, soon=AHEAD):
        prepared = prepare(request, hub=hub, progress=progress, terms=settings.terms)
        scratch = partial(_scratch, settings, plan=prepared.plan)
        with fetched(prepared, hub=hub, scratch=scratch, progress=progress) as sources:
            report = check(folder, prepared, sources, request=request, progress=progress)
    if not request.dry_run and (folder / PLAN_FILE).is_file() and read_plan(folder).key == prepared.plan.key:
        write_record(folder / REPORT_FILE, report)
        reporting.beside(folder, prepared.plan, report)
        provenance.renew(folder, *reporting.NAMES)
    return passed(report, plan=prepared.plan, advice=WRONG)


def publish(
    folder: Path,
    request: MergeRequest,
    *,
    settings: Settings,
    progress: Progress,
    gate: publishing.Gate | None = None,
) -> Publication:
    """Publishes a merged folder that passed its checks and has not changed since; `gate` is as for `run`."""
    record, report = read_plan(folder), read_report(folder)
    if report is None or report.verdict != "passed" or report.plan_key != record.key:
        raise RefusedError(
            f"{folder} has not passed its checks, so it is not published.",
            advice=f"Run `merge-bot validate {folder} --adapter …` first.",
            code="not-validated",
        )
    _check_unchanged(folder, report=report)
    destination = _destination(request)
    if destination.kind == "folder":
        return _copy(folder, destination, plan=record, dry_run=request.dry_run)
    hub, to = LazyHub(settings), publisher(settings, destination)
    if found := to.find(destination, key=record.key):
        return found
    sources = reopened(record, hub=hub)
    check_publication(sources, request=request, terms=settings.terms, look=to.is_private)
    to.check(destination, plan=record)
    cards = tuple(
        card.read(model.files) if (model := reopen(p, hub=hub)) else None
        for p in (*record.adapters, record.base)
    )
    with room.opened(settings, soon=AHEAD):
        done, _ = publishing.publish(
            folder,
            record,
            report,
            cards=cards,
            to=to,
            request=request,
            settings=settings,
            progress=progress,
            gate=gate,
        )
    return done


def run(
    request: MergeRequest, *, settings: Settings, progress: Progress, gate: publishing.Gate | None = None
) -> tuple[Plan, Report | None, Publication | None]:
    """The whole way: plan, merge, validate, publish. What an earlier run has published is found, not made again.

    `gate` is called last before a publication on the Hub; whatever it raises stops that.
    """
    with room.opened(settings, soon=AHEAD):
        return _run(request, settings=settings, progress=progress, gate=gate)


def _run(
    request: MergeRequest, *, settings: Settings, progress: Progress, gate: publishing.Gate | None
) -> tuple[Plan, Report | None, Publication | None]:
    destination = _destination(request)
    if destination.kind == "folder":
        record, merged, report = merge(request, settings=settings, progress=progress)
        done = Publication(destination=destination, url=destination.location, existed=merged is None)
        return record, report, None if request.dry_run else done
    hub = LazyHub(settings)
    to = publisher(settings, destination)
    prepared = prepare(request, hub=hub, progress=progress, terms=settings.terms, look=to.is_private)
    found = to.find(destination, key=prepared.plan.key)
    if found is not None:
        progress.say(f"Published by an earlier run: {found.url}")
        return prepared.plan, None, found
    if not request.dry_run:
        to.check(destination, plan=prepared.plan)
    scratch = partial(_scratch, settings, plan=prepared.plan)
    place = scratch().parent
    limit = shardwise.limit(
        prepared.plan,
        asked=request.scratch_limit,
        free=shutil.disk_usage(place).free,
        fetched=hub.adds(prepared.base, names=list(prepared.plan.shards), beside=place),
    )
    if limit is not None:
        return flow.run(
            prepared,
            hub=hub,
            scratch=scratch,
            limit=limit,
            request=request,
            settings=settings,
            progress=progress,
            gate=gate,
        )
    needed = prepared.plan.estimate.output_bytes
    with (
        fetched(prepared, hub=hub, scratch=scratch, progress=progress) as sources,
        folders.staging(scratch(), key=prepared.plan.key, needed=needed) as staged,
    ):
        _, report = build(prepared, sources, out=staged.folder, request=request, progress=progress)
        if request.dry_run:
            return prepared.plan, report, None
        cards = cards_of(prepared)
        to = publisher(settings, destination)  # a token of a Trusted Publisher lasts an hour
        check_publication(prepared.sources, request=request, terms=settings.terms, look=to.is_private)
        published, report = publishing.publish(
            staged.folder,
            prepared.plan,
            report,
            cards=cards,
            to=to,
            request=request,
            settings=settings,
            progress=progress,
            gate=gate,
        )
    return prepared.plan, report, published


def _copy(folder: Path, destination: Destination, *, plan: Plan, dry_run: bool) -> Publication:
    place = Path(destination.location)
    done = folders.check(place, key=plan.key) == "finished"
    if not done and not dry_run:
        with folders.staging(place, key=plan.key, needed=plan.estimate.output_bytes) as staged:
            shutil.copytree(folder, staged.folder, dirs_exist_ok=True)
            staged.finish()
    return Publication(destination=destination, url=destination.location, existed=done)


def _check_unchanged(folder: Path, *, report: Report) -> None:
    from bot.validate.report import digests  # noqa: PLC0415 - torch

    now = digests(folder)
    changed = sorted(n for n in now.keys() | report.files.keys() if now.get(n) != report.files.get(n))
    if changed:
        raise RefusedError(
            f"{folder / changed[0]} is not as it was when the merge was checked.",
            advice=f"Run `merge-bot validate {folder} --adapter …` again.",
            code="changed-since-validation",
        )


def _destination(request: MergeRequest) -> Destination:
    if request.destination is None:
        raise InputError(
            "No destination is given.", advice="Say where to with --to or --out.", code="no-destination"
        )
    return request.destination


def _scratch(settings: Settings, *, plan: Plan) -> Path:
    """Where a merge that is to be published lies until then: one folder a job, so that a killed run is found again."""
    root = settings.scratch or Path(tempfile.gettempdir()) / f"merge-bot-{os.getuid()}"
    own_scratch(root, setting="MERGE_BOT_SCRATCH")
    folders.sweep(root)
    return root / plan.key
