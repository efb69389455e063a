"""A make that goes shard by shard, each a workflow of its own in the queue of the make's runner, with one commit.

No more of one make's shards are in line at once than the configuration says: others come behind those, not behind all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from bot.connect import publisher
from bot.doors.work import broken, failed
from bot.errors import HostError, MergeBotError
from bot.job import Now, Outcome
from bot.jobs.closing import CANCELLED
from bot.jobs.local import Local, uses
from bot.jobs.queues import DEAD, Queues, shard_id
from bot.jobs.runners.runner import Log, Make, Tell
from bot.jobs.scratch import Needs, in_full
from bot.records import Plan, Publication, Report
from bot.serial import from_dict
from bot.shard import Begun, Portion, Proven, Spread
from bot.shardwise.spread import withdraw

LOOKS = 1.0  # seconds between two looks at the shards
SMALL = 2 * 10**9  # bytes: of an adapter in a GitHub PR, as a plan takes it
log_ = logging.getLogger("bot.jobs")


@dataclass(frozen=True, kw_only=True)
class Spreading:
    """Implements `bot.jobs.runners.runner.Runner`. `local` does the parts; `at_once`: shards of one make in line.

    Begun again, it finds its shards by their ids: what is done is not done again.
    """

    local: Local
    queues: Queues
    at_once: int

    async def carry_out(self, make: Make, *, tell: Tell, log: Log) -> Outcome:
        """The begin, all shards, and the end."""
        try:
            outcome = await self._carried_out(make, tell=tell, log=log)
        except asyncio.CancelledError:
            if not self.local.keeps():
                with suppress(
                    MergeBotError
                ):  # whoever has called it off does it, too, and says what goes wrong
                    await in_full(asyncio.to_thread(self.call_off, make.id))
            raise
        except HostError:  # it is tried again, and what was sent is still there then
            raise
        except MergeBotError as error:
            outcome = failed(error)
        if outcome.ended != "published":
            await asyncio.to_thread(self.call_off, make.id)
        return replace(outcome, plan=outcome.plan or make.plan)

    def call_off(self, make: str) -> None:
        """Ends its shards, and takes back the repository that was made for it while nothing is in that."""
        self.queues.cancel_shards(make)
        document, missing = self.queues.given(make)
        if missing:
            wanted = from_dict(Make, document)
            if wanted.request.destination is not None:
                withdraw(wanted.plan, wanted.request.destination, settings=self.local.settings)

    async def shard(self, make: Make, number: int, file: str, *, needed: int) -> Proven:
        """One shard, merged, proven and sent, in scratch space of its own. Raises what that raises."""
        name = shard_id(make.id, number)
        async with self.local.opened(
            make,
            name,
            needs=Needs(size=needed, uses=uses(make)),
            keeps=lambda: False,
            tell=_untold,
            log=log_.debug,
        ) as opened:
            done: Proven = await opened.room.do(
                "spread", "shard", opened.request, make.plan.key, file, bounds=opened.bounds, writes=True
            )
        return done

    async def _carried_out(self, make: Make, *, tell: Tell, log: Log) -> Outcome:
        _, missing = await asyncio.to_thread(self.queues.given, make.id)
        space = SMALL if make.target is not None else 0
        told: Any = {"keeps": self.local.keeps, "tell": tell, "log": log}
        begun: Begun
        async with self.local.opened(
            make, make.id, needs=Needs(size=space, uses=uses(make)), **told
        ) as opened:
            begun = await opened.room.do(
                "spread", "begin", opened.request, make.plan.key, missing, bounds=opened.bounds, writes=True
            )
        shards = await self._all(make, begun, space=space, tell=tell, log=log)
        if isinstance(shards, Outcome):
            return shards
        spread = Spread(started=begun.started, made=missing, copied=begun.copied, shards=shards)
        plan: Plan
        report: Report | None
        publication: Publication
        again = make.plan.estimate.output_bytes if make.request.reload == "always" else 0
        async with self.local.opened(
            make, make.id, needs=Needs(size=begun.beside + space + again, uses=uses(make)), **told
        ) as opened:
            outlines = (
                opened.bounds.file or 0
            ) + make.plan.estimate.output_bytes  # they have a size, and take none
            bounds = replace(opened.bounds, file=outlines)
            plan, report, publication = await opened.room.do(
                "spread", "conclude", opened.request, make.plan.key, spread, bounds=bounds, writes=True
            )
        return Outcome(
            ended="published",
            plan=plan,
            report=report,
            publication=publication,
            public=await asyncio.to_thread(self._is_public, make),
            cost=self.local.paid(plan, report),
        )

    async def _all(
        self, make: Make, begun: Begun, *, space: int, tell: Tell, log: Log
    ) -> tuple[Proven, ...] | Outcome:
        """Every shard, so many in line at once; or how the first one ended that did not come to anything."""
        waiting, line, done = list(begun.left), dict[str, Portion](), list[Proven]()
        now = Now(stage="merging", total=sum(portion.written_bytes for portion in waiting))
        tell(now)
        log(f"Merging {len(waiting)} shards, {self.at_once} at once")
        while waiting or line:
            while waiting and len(line) < self.at_once:
                portion = waiting.pop(0)
                needed = portion.fetched_bytes + portion.written_bytes + begun.beside + space
                id_ = await asyncio.to_thread(self._put, make, portion, needed=needed)
                line[id_] = portion
            found = await asyncio.to_thread(self._ended, [*line])
            for id_, each in found.items():
                if isinstance(each, Outcome):
                    return each
                portion = line.pop(id_)
                if each is None:
                    waiting.insert(0, portion)
                    continue
                done.append(each)
                now = replace(now, done=now.done + portion.written_bytes)
                tell(now)
                log(f"{portion.file} is merged, proven and sent")
            if not found:
                await asyncio.sleep(LOOKS)
        return tuple(done)

    def _put(self, make: Make, portion: Portion, *, needed: int) -> str:
        number = make.plan.shards.index(portion.file)
        self.queues.shard(make.id, number, file=portion.file, needed=needed, runner=make.runner)
        return shard_id(make.id, number)

    def _ended(self, ids: list[str]) -> Mapping[str, Proven | Outcome | None]:
        """What those have come to that have ended; None: nobody knows any more, as `Queues.forget` has removed it."""
        found: dict[str, Proven | Outcome | None] = {}
        states = self.queues.states(ids)
        for id_ in ids:
            state = states.get(id_)
            if state is None:
                found[id_] = None
            elif state in DEAD:
                found[id_] = broken(RuntimeError())
            elif state == "CANCELLED":
                found[id_] = CANCELLED
        for id_, result in self.queues.results(ids).items():
            bad = "failed" in result
            found[id_] = from_dict(Outcome, result["failed"]) if bad else from_dict(Proven, result["done"])
        return found

    def _is_public(self, make: Make) -> bool:
        """Where the Hub does not say so, it is as good as private."""
        to = make.request.destination
        with suppress(MergeBotError):
            return to is not None and publisher(self.local.settings, to).is_private(to) is False
        return False


def _untold(_: Now) -> None:
    """The make tells how far it is, not each shard."""
