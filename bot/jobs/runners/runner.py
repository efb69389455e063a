"""Where a merge executes: the record of what is to be made, and the protocol of whatever carries it out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from bot.doors.found import Target
from bot.job import Now, Outcome
from bot.jobs.order import Origin
from bot.plan.base_model import MADE_FROM
from bot.records import Pinned, Plan
from bot.request import MergeRequest

Tell = Callable[[Now], None]
Log = Callable[[str], None]
Gate = Callable[["Make"], Awaitable[None]]  # asked before a publication; what it raises stops that


@dataclass(frozen=True, kw_only=True)
class Make:
    """One merge, validated and published, for all who wait for it.

    `id` is the same for the same plan key, destination and checks. `request` is as `pinned` makes it of the first
    order's, and `plan` is its plan. `target`: an adapter in a GitHub PR, which `origin` names; it is fetched anew where
    it is merged. `runner` is what was chosen: `local`, `pool:QUEUE` or `hf-jobs`. `seconds` is how long it may take,
    `dollars` what it may cost where time costs money; None: no limit.
    """

    id: str
    request: MergeRequest
    plan: Plan
    origin: Origin
    target: Target | None = None
    runner: str = "local"
    seconds: float | None = None
    dollars: float | None = None


class Runner(Protocol):
    """Carries makes out. What it began and left behind when it was killed, it finds again and goes on with."""

    async def carry_out(self, make: Make, *, tell: Tell, log: Log) -> Outcome:
        """How it ended; refusals and failed checks are values of it.

        `tell` hears how far it is, `log` a line at a time; both are called in the event loop's thread. Raises HostError
        when trying again later helps, and passes CancelledError on when everything that it had started has ended.
        """

    def call_off(self, make: str) -> None:
        """Ends what works on the make of this id elsewhere, also when nobody follows it any more. May block."""


async def open_gate(_: Make) -> None:
    """Nobody has to be asked."""


def pinned(request: MergeRequest, plan: Plan) -> MergeRequest:
    """The request, with every model of the Hub at the commit that the plan found.

    Folders stay as they were named. The base keeps the name it was given, if any: how it was found is part of the plan,
    and of a quantised one the revision that was given is its own, not that of the model that it was made from.
    """
    initial = request.initial_adapter
    named = plan.base.kind == "hub" and not plan.base_found_by.endswith(MADE_FROM)
    return replace(
        request,
        adapter=_at(request.adapter, plan.adapter),
        further=tuple(_at(name, found) for name, found in zip(request.further, plan.further, strict=True)),
        initial_adapter=None if initial is None else _at(initial, plan.initial),
        base_revision=plan.base.commit if named else request.base_revision,
    )


def _at(name: str, found: Pinned | None) -> str:
    if found is None or found.kind == "folder":
        return name
    return f"{found.location}@{found.commit}" + (f":{found.subfolder}" if found.subfolder else "")
