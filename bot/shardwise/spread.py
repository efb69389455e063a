"""A merge whose shards are made by many workers: its begin, one shard of it, and its end, each by itself.

Whoever does one of them prepares anew, from the same commits; nothing of the others' disks is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from bot import building, publishing
from bot.admission import check_publication
from bot.connect import LazyHub, publisher
from bot.errors import InternalError, RefusedError, StoppedError
from bot.isolation import room
from bot.prepare import Prepared
from bot.progress import Progress, Silent
from bot.publish import folder as folders
from bot.records import Plan, Publication, Report
from bot.request import Destination, MergeRequest
from bot.settings import Settings
from bot.several import prepare
from bot.shard import Begun, Proven, Spread
from bot.shardwise import flow, pieces
from bot.shardwise.journal import ENDING, Journal
from bot.sources import fetched


def begin(
    request: MergeRequest,
    key: str,
    made: bool,  # noqa: FBT001 - what crosses to a step crosses in a row
    *,
    settings: Settings,
    progress: Progress,
) -> Begun:
    """Creates the destination where it is missing, and has the Hub copy what nothing changes in.

    `made`: it was missing when this merge was looked at first. `key`, here and below, is that of the plan that all of
    them go by: raises RefusedError (`moved`) where it would be another one by now. Raises what `bot.pipeline.run`
    raises before a merge.
    """
    started = building.now()
    with room.opened(settings):
        prepared, _ = _prepared(request, key=key, settings=settings, progress=progress)
        to = publisher(settings, _place(request))
        check_publication(prepared.sources, request=request, terms=settings.terms, look=to.is_private)
        found, beside = pieces.portions(prepared)
        with to.ahead(
            _place(request), plan=prepared.plan, made=made, waits=flow.HANDED_ON, progress=progress
        ) as parcel:
            copied = pieces.copy(found, parcel=parcel, prepared=prepared)
    there = {shard.file for shard in copied}
    left = tuple(portion for portion in found if portion.file not in there)
    return Begun(started=started, left=left, copied=copied, beside=beside)


def shard(request: MergeRequest, key: str, file: str, *, settings: Settings, progress: Progress) -> Proven:
    """Fetches, merges, proves and sends one shard. Done twice, it is the same.

    Raises StoppedError where the destination is gone, and what `bot.pipeline.run` raises.
    """
    with room.opened(settings, soon=("bot.shardwork", "bot.merge.run", "bot.validate.witness")):
        prepared, hub = _prepared(request, key=key, settings=settings, progress=progress)
        plan, scratch = prepared.plan, _scratch(settings, prepared)
        to = publisher(settings, _place(request))
        if to.is_private(_place(request)) is None:
            raise _gone(request)
        portion = next(p for p in pieces.portions(prepared)[0] if p.file == file)
        with (
            fetched(prepared, hub=hub, scratch=scratch, progress=progress, shards=False) as sources,
            folders.staging(scratch(), key=plan.key, needed=portion.written_bytes) as staged,
            to.ahead(_place(request), plan=plan, progress=progress) as parcel,
        ):
            if parcel.made:  # taken back since the look above; as this raises, it is again
                raise _gone(request)
            # As what is staged: what is to be kept of it goes to whoever concludes.
            journal = Journal(staged.folder / ENDING, plan=plan, request=request)
            work = flow.Work(
                prepared, sources, hub=hub, folder=staged.folder, journal=journal, request=request
            )
            work.small()
            return journal.proven(work.one(portion, parcel=parcel, progress=progress))


def conclude(
    request: MergeRequest,
    key: str,
    spread: Spread,
    *,
    settings: Settings,
    progress: Progress,
    gate: publishing.Gate | None,
) -> tuple[Plan, Report | None, Publication | None]:
    """Holds the shards against the Hub's storage, makes the report of all, and shows them in one commit.

    Raises what `bot.shardwise.flow.run` raises.
    """
    with room.opened(settings, soon=("bot.shardwork",)):
        prepared, hub = _prepared(request, key=key, settings=settings, progress=progress)
        return flow.run(
            prepared,
            hub=hub,
            scratch=_scratch(settings, prepared),
            limit=pieces.portions(prepared)[1],
            request=request,
            settings=settings,
            progress=progress,
            gate=gate,
            spread=spread,
        )


def withdraw(plan: Plan, destination: Destination, *, settings: Settings) -> None:
    """Takes back a destination that was made for a merge that has come to nothing, as long as it is empty."""
    to = publisher(settings, destination)
    if to.is_private(destination) is None:
        return
    called_off = StoppedError(
        "It was called off.", advice="Ask for it again when you like.", code="cancelled"
    )
    with suppress(StoppedError), to.ahead(destination, plan=plan, made=True, progress=Silent()):
        raise called_off


PARTS: Mapping[str, Callable[..., Any]] = {"begin": begin, "shard": shard, "conclude": conclude}


def _prepared(
    request: MergeRequest, *, key: str, settings: Settings, progress: Progress
) -> tuple[Prepared, LazyHub]:
    hub = LazyHub(settings)
    look = publisher(settings, _place(request)).is_private
    prepared = prepare(request, hub=hub, progress=progress, terms=settings.terms, look=look)
    if (
        prepared.plan.key != key
    ):  # a base that the plan has found by itself is looked up at its newest commit each time
        raise RefusedError(
            "The adapter or its base has changed since this merge was planned; nothing was published.",
            advice="Ask for it again.",
            code="moved",
        )
    return prepared, hub


def _place(request: MergeRequest) -> Destination:
    if request.destination is None or request.destination.kind == "folder":
        raise InternalError(
            "Only a merge to the Hub is spread.", advice="Please report this.", code="no-destination"
        )
    return request.destination


def _scratch(settings: Settings, prepared: Prepared) -> Callable[[], Path]:
    """In the folder that the step was given for itself."""
    root = settings.scratch
    if root is None:
        raise InternalError(
            "A worker without scratch space.", advice="Please report this.", code="no-scratch"
        )
    return lambda: root / prepared.plan.key


def _gone(request: MergeRequest) -> StoppedError:
    return StoppedError(
        f"{_place(request).location}, which was made for the merge, is gone: so nobody wants it any more.",
        advice="Ask for it again when you like.",
        code="destination-gone",
    )
