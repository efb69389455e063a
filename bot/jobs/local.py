"""The runner on this machine: merges and publishes in processes of their own, within scratch space set aside for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bot.doors.work import failed
from bot.errors import HostError, MergeBotError
from bot.isolation.forking import ForkServer
from bot.job import Outcome
from bot.jobs.process import Bounds, Room
from bot.jobs.runners.runner import Gate, Log, Make, Tell, open_gate
from bot.jobs.scratch import Needs, Scratch
from bot.plan.limits import cost
from bot.records import Plan, Report
from bot.request import Destination, MergeRequest
from bot.settings import Settings

# An adapter in a GitHub PR as the pipeline takes it: a folder below the given one, of so many bytes. May block.
Fetch = Callable[[Make, Path, int], MergeRequest]


def _as_it_is(make: Make, _: Path, __: int) -> MergeRequest:
    return make.request


def uses(make: Make) -> frozenset[str]:
    """The models of the Hub that it reads, as `owner/name@commit`."""
    return frozenset(f"{s.location}@{s.commit}" for s in make.plan.sources if s.kind == "hub")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Where a step of a make is done, within `bounds`; `request` is what is asked of it."""

    room: Room
    bounds: Bounds
    request: MergeRequest


@dataclass(frozen=True, kw_only=True)
class Local:
    """Implements `bot.jobs.runners.runner.Runner`.

    `gate` is asked before a publication. `keeps` says whether a merge that is cancelled will be gone on with, here or
    elsewhere; `alive` whether this executor still holds its lease. `memory`: bytes for all its processes; `seconds`:
    after which a step is given up.
    """

    settings: Settings
    scratch: Scratch
    fetch: Fetch = field(default=_as_it_is)
    gate: Gate = field(default=open_gate)
    keeps: Callable[[], bool] = field(default=lambda: False)
    alive: Callable[[], bool] = field(default=lambda: True)
    memory: int | None = None
    seconds: float | None = None
    patience: float = 60.0
    forks: ForkServer | None = None

    async def carry_out(self, make: Make, *, tell: Tell, log: Log) -> Outcome:
        """Both steps may be begun again at any time: a finished folder, and a marker on the Hub, are found."""
        estimate = make.plan.estimate
        again = 0 if make.request.reload == "never" else estimate.output_bytes  # it may be fetched once more
        needs = Needs(
            size=estimate.disk_bytes + again,
            fetches=estimate.download_bytes,
            uses=uses(make),
        )
        try:
            async with self.opened(
                make, make.id, needs=needs, keeps=self.keeps, tell=tell, log=log
            ) as opened:
                return await self._carried_out(make, opened)
        except HostError:
            raise
        except MergeBotError as error:
            outcome = failed(error)
            return replace(outcome, plan=outcome.plan or make.plan)

    @asynccontextmanager
    async def opened(
        self,
        make: Make,
        name: str,
        *,
        needs: Needs,
        keeps: Callable[[], bool],
        tell: Tell,
        log: Log,
    ) -> AsyncIterator[Opened]:
        """Scratch space of that name, a room in it, what a step in it may use, and the request with its adapter here.

        Raises what `bot.jobs.scratch.Scratch.reserved` raises, and what `fetch` raises.
        """
        async with self.scratch.reserved(name, needs=needs, waits=log, keeps=keeps) as (folder, most):

            async def gate() -> None:
                await self.gate(make)

            room = Room(
                settings=self.settings,
                scratch=folder,
                tell=tell,
                log=log,
                alive=self.alive,
                gate=gate,
                forks=self.forks,
            )
            bounds = Bounds(
                memory=self.memory,
                file=most,
                disk=most,
                seconds=make.seconds or self.seconds,
                patience=self.patience,
            )
            yield Opened(
                room=room, bounds=bounds, request=await asyncio.to_thread(self.fetch, make, folder, most)
            )

    def call_off(self, make: str) -> None:
        """Nothing outlives its executor."""

    async def _carried_out(self, make: Make, opened: Opened) -> Outcome:
        room, bounds, request = opened.room, opened.bounds, opened.request
        merged = room.scratch / "merged"
        into = replace(request, destination=Destination(kind="folder", location=str(merged)))
        plan: Plan
        report: Report | None
        plan, report = await room.do("merge", into, bounds=bounds)
        plan = replace(plan, destination=make.request.destination)
        outcome = Outcome(ended="skipped", plan=plan, report=report, cost=self.paid(plan, report))
        if request.dry_run:
            return outcome
        publication, public = await room.do("publish", merged, request, bounds=bounds, writes=True)
        # Also where it existed: it was looked for before the merge, so an earlier run of this very make has made it.
        return replace(outcome, ended="published", publication=publication, public=public)

    def paid(self, plan: Plan, report: Report | None) -> int | None:
        """What a merge costs whoever asked, in the operator's unit."""
        price = self.settings.terms.limits
        return None if price.cost_per_gb is None or report is None else cost(price, plan.estimate)
