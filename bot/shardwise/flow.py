"""A merge from Hub to Hub in little space: shards come, are merged and proven, go, and one commit shows them all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import building, publishing
from bot.admission import check_publication
from bot.connect import LazyHub, publisher
from bot.errors import AccessError, HostError, InternalError, MergeError
from bot.isolation import room
from bot.merge.shards import merged_header
from bot.plan.base_model import CONFIG
from bot.prepare import Prepared
from bot.progress import Progress, Silent
from bot.publish import folder as folders
from bot.records import MergedModel, Plan, Publication, Report
from bot.request import MergeRequest
from bot.settings import Settings
from bot.shard import MergedShard, Portion, Spread
from bot.shardwise import line, pieces
from bot.shardwise.budget import Budget
from bot.shardwise.journal import ENDING, Journal
from bot.shardwise.told import MergingOnly
from bot.sources import Sources, fetched
from bot.weights.archive import link_rest
from bot.weights.files import LocalFiles
from bot.weights.header import Header
from bot.weights.layout import INDEX
from bot.weights.sparse import write_outline
from bot.wording import counted, size

if TYPE_CHECKING:
    from bot.clients.hub_parcel import Parcel

MERGED, NEAR, SMALL = "merged", "base", "small"  # folders in the scratch space
# What workers have sent waits also when the one that ends it is called off: another one may go on with it, and who has
# called off the whole takes it back.
HANDED_ON = (HostError, KeyboardInterrupt)


def run(
    prepared: Prepared,
    *,
    hub: LazyHub,
    scratch: Callable[[], Path],
    limit: int,
    request: MergeRequest,
    settings: Settings,
    progress: Progress,
    gate: publishing.Gate | None,
    spread: Spread | None = None,
) -> tuple[Plan, Report | None, Publication | None]:
    """Merges and publishes with no more than `limit` bytes of disk. A run that was killed goes on where it was.

    `spread`: what workers have made of every shard, so that only the end is left. Raises what `bot.pipeline.run` does,
    and MergeError (`wrong-shard`) for a shard of theirs that is not what they say. What was done waits for
    the next run after a fault of the Hub, or a token that ran out; after any other error nothing is left behind.
    """
    plan = prepared.plan
    destination = plan.destination
    waits = (HostError,) if spread is None else HANDED_ON
    if destination is None:
        raise InternalError("A merge to nowhere.", advice="Please report this.", code="no-destination")
    with (
        fetched(prepared, hub=hub, scratch=scratch, progress=progress, shards=False) as sources,
        folders.staging(scratch(), key=plan.key, needed=limit) as staged,
        _journal(scratch, plan, request=request, beside=staged.folder) as journal,
    ):
        if spread is not None:
            journal.take(spread)
        work = Work(prepared, sources, hub=hub, folder=staged.folder, journal=journal, request=request)
        if request.dry_run:
            _, report = work.merge(None, limit=limit, progress=progress)
            return plan, report, None
        to = publisher(settings, destination)
        check_publication(prepared.sources, request=request, terms=settings.terms, look=to.is_private)
        with to.ahead(destination, plan=plan, made=journal.made, waits=waits, progress=progress) as parcel:
            journal.begin(made=parcel.made)
            _, report = work.merge(parcel, limit=limit, progress=progress, spread=spread)
            done, report = publishing.publish(
                work.out,
                plan,
                report,
                cards=building.cards_of(prepared),
                to=to,
                request=request,
                settings=settings,
                progress=progress,
                gate=gate,
                parcel=parcel,
            )
        return plan, report, done


@contextmanager
def _journal(
    scratch: Callable[[], Path], plan: Plan, *, request: MergeRequest, beside: Path
) -> Iterator[Journal]:
    """The journal, which a fault of the Hub leaves for the next run, a death of this one, and a token that ran out.

    That of a dry run, which sends nothing, lies in the folder `beside`: it leaves alone what a killed run has sent.
    """
    place = beside / ENDING if request.dry_run else scratch().with_name(f"{scratch().name}{ENDING}")
    journal = Journal(place, plan=plan, request=request)
    try:
        yield journal
    except BaseException as error:
        waits = isinstance(error, AccessError) and journal.shards()  # for a new token
        if not waits and not isinstance(error, HostError):
            journal.remove()
        raise
    journal.remove()


def _wrong(file: str) -> MergeError:
    return MergeError(
        f"The Hub's storage has no {file} as the worker says that it has made it: nothing was published.",
        advice="Ask for it again; if it happens again, look at the machines that merge.",
        code="wrong-shard",
    )


class Work:
    """One merge: what it is made of, and where it lies meanwhile."""

    def __init__(
        self,
        prepared: Prepared,
        sources: Sources,
        *,
        hub: LazyHub,
        folder: Path,
        journal: Journal,
        request: MergeRequest,
    ) -> None:
        self.prepared, self.sources, self.hub = prepared, sources, hub
        self.plan, self.base, self.request = prepared.plan, prepared.layout, request
        self.folder, self.out, self.journal = folder, folder / MERGED, journal
        self.out.mkdir()
        self._shards = {shard.file: shard for shard in self.base.shards}
        small = [CONFIG, INDEX, *(s.name for s in self.plan.sidecars if s.origin == "base")]
        self._small = [name for name in small if (sources.base / name).is_file()]
        self._done: dict[str, MergedShard] = {}

    def merge(
        self, parcel: Parcel | None, *, limit: int, progress: Progress, spread: Spread | None = None
    ) -> tuple[MergedModel, Report | None]:
        """Takes every shard through the line, and makes the report. Without a parcel, nothing is sent."""
        started = spread.started if spread else building.now()
        self.small()
        self._begin()
        found, beside = pieces.portions(self.prepared)
        if parcel is not None:
            self._find(parcel, found, progress=progress)
        left = [portion for portion in found if portion.file not in self._done]
        if spread is not None and left:
            raise _wrong(left[0].file)
        progress.begin("Merging shard by shard", total=sum(portion.written_bytes for portion in left))
        counting, budget = MergingOnly(progress), Budget(limit - beside)
        stages = line.Stages(
            fetch=self._fetch,
            merge=lambda portion: self._merge(portion, progress=counting),
            drop=lambda portion: shutil.rmtree(self._near(portion)),
            send=lambda portion, done: self._send(portion, done, parcel=parcel),
        )
        times = line.run(left, stages=stages, budget=budget)
        progress.end()
        if left:
            progress.say(
                f"{counted(len(left), 'shard')} in {times.wall:.1f} s: {times.fetch:.1f} s fetching,"
                f" {times.merge:.1f} s merging, {times.send:.1f} s sending, {times.overlap:.1f} of them at a time;"
                f" {size(budget.peak + beside)} of disk at most"
            )
        return self._conclude(started=started, progress=progress)

    def small(self) -> None:
        """The base's files that are not weights."""
        small = self.folder / SMALL
        small.mkdir()
        link_rest(self._small, source=self.sources.base, out=small)

    def one(self, portion: Portion, *, parcel: Parcel, progress: Progress) -> MergedShard:
        """Takes one portion all the way, by itself."""
        progress.begin(f"Merging {portion.file}", total=portion.written_bytes)
        self._fetch(portion)
        done = self._merge(portion, progress=MergingOnly(progress))
        shutil.rmtree(self._near(portion))
        self._send(portion, done, parcel=parcel)
        progress.end()
        return done

    def _begin(self) -> None:
        """Everything that is not weights, and what all of the weights will look like."""
        room.call(
            "bot.shardwork:begin",
            self.plan,
            **self._given(self.folder / SMALL),
            originals=building.originals(self.plan),
        )

    def _find(self, parcel: Parcel, portions: tuple[Portion, ...], *, progress: Progress) -> None:
        """What the Hub has already, of an earlier run, or by copying it itself."""
        untouched = {portion.file: portion.sha256 for portion in portions}
        known = {
            name: shard
            for name, shard in self.journal.shards().items()
            if self._fits(shard) and (not shard.by_hub or shard.sha256 == untouched.get(name))
        }
        there = parcel.recall({name: (shard.sha256, shard.size) for name, shard in known.items()})
        for name in sorted(there):
            self._keep(known[name])
        left = [p for p in portions if p.file not in there]
        copied = pieces.copy(left, parcel=parcel, prepared=self.prepared)
        for shard in copied:
            self.journal.add(shard)
            self._keep(shard)
        if there:
            progress.say(f"{counted(len(there), 'shard')} of an earlier run are there.")
        if copied:
            progress.say(f"{counted(len(copied), 'shard')} that nothing changes in are copied by the Hub.")

    def _fits(self, shard: MergedShard) -> bool:
        return shard.file in self._shards and shard.size == self._header(shard.file).file_size

    def _header(self, file: str) -> Header:
        return merged_header(self.plan, base=self.base, shard=self._shards[file])

    def _keep(self, shard: MergedShard) -> None:
        """From here on it is its outline alone."""
        write_outline(self.out / shard.file, self._header(shard.file))
        self._done[shard.file] = shard

    def _near(self, portion: Portion) -> Path:
        return self.folder / NEAR / portion.file

    def _fetch(self, portion: Portion) -> None:
        """Lays out a base folder with what the portion needs, and nothing else of the weights."""
        near, model = self._near(portion), self.prepared.base
        near.mkdir(parents=True)
        link_rest(self._small, source=self.sources.base, out=near)
        for name in portion.needs:
            if isinstance(model.files, LocalFiles):
                (near / name).symlink_to((model.files.folder / name).absolute())
            else:
                self.hub.fetch(model, name=name, out=near, progress=Silent())

    def _merge(self, portion: Portion, *, progress: Progress) -> MergedShard:
        shard: MergedShard = room.call(
            "bot.shardwork:merge_shard",
            self.plan,
            portion.file,
            request=self.request,
            **self._given(self._near(portion)),
            largest_file=portion.written_bytes + building.BESIDE_WEIGHTS,
            progress=progress,
        )
        return shard

    def _send(self, portion: Portion, done: MergedShard, *, parcel: Parcel | None) -> None:
        if parcel is not None:
            parcel.send(self.out / portion.file, name=portion.file, sha256=done.sha256)
            self.journal.add(done)
        self._keep(done)

    def _given(self, near: Path) -> dict[str, Any]:
        folders_ = {
            "base": near.absolute(),
            "adapter": self.sources.adapter.absolute(),
            "out": self.out.absolute(),
            "notes": self.journal.folder.absolute(),
        }
        return {
            "base": self.base,
            "config": self.prepared.config,
            "folders": folders_,
        }

    def _conclude(self, *, started: str, progress: Progress) -> tuple[MergedModel, Report | None]:
        done = room.call(
            "bot.shardwork:conclude",
            self.plan,
            [self._done[shard.file] for shard in self.base.shards],
            request=self.request,
            **self._given(self.folder / SMALL),
            progress=progress,
        )
        return building.finish(
            self.prepared,
            self.sources,
            out=self.out,
            request=self.request,
            done=done,
            started=started,
            progress=progress,
        )
