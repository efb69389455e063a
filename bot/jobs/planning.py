"""From an order to what is to be made of it: who may ask for how much, the plan, and where it will be merged."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bot.doors.asked import with_destination
from bot.doors.work import as_they_may
from bot.errors import RefusedError
from bot.isolation.forking import ForkServer
from bot.job import Outcome
from bot.jobs.cache import ALL
from bot.jobs.ledger import Ledger
from bot.jobs.order import Entry, Order, understood
from bot.jobs.process import Bounds, Room
from bot.jobs.runners.runner import Log, Make, Tell, pinned
from bot.jobs.scratch import Needs, Scratch
from bot.records import Plan
from bot.request import MergeRequest
from bot.serial import as_dict
from bot.settings import Settings

GB = 10**9
SMALL = 2 * GB  # bytes: of an adapter in a GitHub PR, and of what a plan writes beside it


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How much one requester may have in 24 hours, retries included: jobs, and GB of merged weights. None: no limit."""

    jobs: int | None = None
    gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Planning:
    """`fetch` brings an order's adapter here if it lies in a GitHub PR, and fits; `choose` names the runner for a plan.

    `within` adds what whoever runs the bot wants of every merge.
    """

    settings: Settings
    ledger: Ledger
    scratch: Scratch
    fetch: Callable[[Order, Path, int], MergeRequest] = field(default=lambda order, *_: order.request)
    choose: Callable[[Order, Plan], str] = field(default=lambda *_: "local")
    within: Callable[[MergeRequest], MergeRequest] = field(default=lambda request: request)
    quota: Quota = field(default_factory=Quota)
    seconds: float | None = None
    alive: Callable[[], bool] = field(default=lambda: True)
    patience: float = 60.0
    forks: ForkServer | None = None

    def admit(self, entry: Entry) -> None:
        """Raises RefusedError for one job too many, and for what would be published without a check."""
        request = entry.order.request
        if entry.order.job.verb == "merge" and request.validation == "none" and not request.dry_run:
            raise RefusedError(
                "Without any check nothing is published here.",
                advice="Leave out --validate none.",
                code="not-validated",
            )
        most = self.quota.jobs
        if most is not None and self.ledger.used(entry).jobs > most:
            raise RefusedError(
                f"You have asked for {most} jobs in the last 24 hours, which is as many as are allowed here.",
                advice="Ask again tomorrow, or ask whoever runs this bot for more.",
                code="quota-jobs",
            )

    def admit_size(self, entry: Entry) -> None:
        """Raises RefusedError when this and what was asked for before are too large together."""
        most = self.quota.gb
        if most is not None and self.ledger.used(entry).bytes > most * GB:
            raise RefusedError(
                f"With this job you would have more than {most:g} GB merged in 24 hours, which is the limit here.",
                advice="Ask again tomorrow, or ask whoever runs this bot for more.",
                code="quota-gb",
            )

    async def planned(self, entry: Entry, *, tell: Tell, log: Log) -> Make | Outcome:
        """What is to be made, or how the job has ended. Raises what stands in its way; HostError: try again."""
        order = understood(entry)
        verb = order.job.verb
        name = f"plan-{order.job.key}"
        keeps: Callable[[], bool] = lambda: False  # noqa: E731 - a plan is quickly made again
        needs = Needs(
            size=SMALL if _is_inside(order) else 0,
            uses=frozenset({ALL} if order.request.further else ()),  # to plan for several, they are fetched
        )
        async with self.scratch.reserved(name, needs=needs, waits=log, keeps=keeps) as (folder, most):
            request = await asyncio.to_thread(self.fetch, order, folder, SMALL)
            known = as_they_may(self.settings, request)
            room = Room(
                settings=known, scratch=folder, tell=tell, log=log, alive=self.alive, forks=self.forks
            )
            bounds = Bounds(disk=most, seconds=self.seconds, patience=self.patience)
            if verb != "merge":
                outcome: Outcome = await room.do("examine", verb, request, bounds=bounds)
                return outcome
            plan: Plan = await room.do("plan", with_destination(request), bounds=bounds)
        asked = replace(order, request=self.within(order.request))
        return make_of(asked, plan, runner=self.choose(order, plan))


def make_of(order: Order, plan: Plan, *, runner: str) -> Make:
    """The make that all share who ask for the same merge, checks and place."""
    asked = order.request
    named: list[Any] = [plan.key, asked.validation, asked.thorough, asked.reload, asked.text, asked.dry_run]
    named += [as_dict(asked.destination) if asked.destination else None, [as_dict(p) for p in asked.prompts]]
    named.append(as_dict(asked.thresholds))
    id_ = hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]
    return Make(
        id=id_,
        request=pinned(asked, plan),
        plan=plan,
        origin=order.origin,
        target=order.target,
        runner=runner,
    )


def _is_inside(order: Order) -> bool:
    return order.target is not None and order.target.folder is not None
