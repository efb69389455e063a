"""The runner on this machine: merges and publishes in processes of their own, within scratch space set aside for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bot.doors.work import failed
from bot.errors import HostError, MergeBotError
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


@dataclass(frozen=True, kw_only=True)
class Local:
    """Implements `bot.jobs.runners.runner.Runner`.

    `gate` is asked before a publication. `keeps` says whether a merge that is cancelled will be gone on with, here or
    elsewhere; `alive` whether this executor still holds its lease. `memory`: bytes for all its processes.
    """

    settings: Settings
    scratch: Scratch
    fetch: Fetch = field(default=_as_it_is)
    gate: Gate = field(default=open_gate)
    keeps: Callable[[], bool] = field(default=lambda: False)
    alive: Callable[[], bool] = field(default=lambda: True)
    memory: int | None = None
    patience: float = 60.0

    async def carry_out(self, make: Make, *, tell: Tell, log: Log) -> Outcome:
        """Both steps may be begun again at any time: a finished folder, and a marker on the Hub, are found."""
        estimate = make.plan.estimate
        again = 0 if make.request.reload == "never" else estimate.output_bytes  # it may be fetched once more
        needs = Needs(
            size=estimate.disk_bytes + again,
            fetches=estimate.download_bytes,
            uses=frozenset(f"{s.location}@{s.commit}" for s in make.plan.sources if s.kind == "hub"),
        )
        try:
            async with self.scratch.reserved(make.id, needs=needs, waits=log, keeps=self.keeps) as (
                folder,
                most,
            ):

                async def gate() -> None:
                    await self.gate(make)

                room = Room(
                    settings=self.settings, scratch=folder, tell=tell, log=log, alive=self.alive, gate=gate
                )
                bounds = Bounds(
                    memory=self.memory, file=most, disk=most, seconds=make.seconds, patience=self.patience
                )
                return await self._carried_out(make, room=room, bounds=bounds, space=most)
        except HostError:
            raise
        except MergeBotError as error:
            outcome = failed(error)
            return replace(outcome, plan=outcome.plan or make.plan)

    def call_off(self, make: str) -> None:
        """Nothing outlives its executor."""

    async def _carried_out(self, make: Make, *, room: Room, bounds: Bounds, space: int) -> Outcome:
        request = await asyncio.to_thread(self.fetch, make, room.scratch, space)
        merged = room.scratch / "merged"
        into = replace(request, destination=Destination(kind="folder", location=str(merged)))
        plan: Plan
        report: Report | None
        plan, report = await room.do("merge", into, bounds=bounds)
        plan = replace(plan, destination=make.request.destination)
        price = self.settings.terms.limits
        paid = None if price.cost_per_gb is None or report is None else cost(price, plan.estimate)
        outcome = Outcome(ended="skipped", plan=plan, report=report, cost=paid)
        if request.dry_run:
            return outcome
        publication, public = await room.do("publish", merged, request, bounds=bounds, writes=True)
        # Also where it existed: it was looked for before the merge, so an earlier run of this very make has made it.
        return replace(outcome, ended="published", publication=publication, public=public)
