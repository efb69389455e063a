"""What is done for a job, in steps that may each be begun again: DBOS sees to it that none is left out.

`job` says that it is begun, plans, and waits for a `make`; `make` merges and publishes once for all who wait;
`answer` tells one of them how it ended; `stop` calls one off. Everything large lies in the ledger; what DBOS keeps of
a workflow is its id, its arguments and which steps are done. `bot.jobs.engine` runs them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from sqlalchemy import Connection

from bot.connect import publisher
from bot.doors.work import failed
from bot.errors import HostError, MergeBotError, StoppedError
from bot.job import Outcome
from bot.jobs.closing import Closing, done_elsewhere, is_elsewhere
from bot.jobs.figures import Figures
from bot.jobs.ledger import Ledger
from bot.jobs.order import ACTIVE, Entry
from bot.jobs.patience import WAITS, Patience, is_ours
from bot.jobs.planning import Planning
from bot.jobs.queues import SPREAD, Queues
from bot.jobs.reporter import Answers, Reporter
from bot.jobs.runners.runner import Make, Runner
from bot.jobs.spread import Spreading
from bot.serial import as_dict, from_dict
from bot.settings import Settings

log = logging.getLogger("bot.jobs")


def _held(_: Connection) -> None:
    """Nobody else could have taken it."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One executor's: what its steps need.

    `answers` finds where a job is answered; `planning` plans; `runners` are those that this executor serves, by the
    name of a runner without its queue; `notify` tells others how a job ended. `held` raises HostError, in the
    transaction of the last look, when others may have taken over what this executor had begun.
    """

    executor: str
    settings: Settings
    ledger: Ledger
    queues: Queues
    answers: Answers
    planning: Planning
    runners: Mapping[str, Runner]
    notify: Callable[[Entry], None] = field(default=lambda _: None)
    held: Callable[[Connection], None] = field(default=_held)
    figures: Figures = field(default_factory=Figures)
    wait: Any = WAITS

    # job

    def begin(self, id_: str, attempt: int) -> bool:
        """Says so where it was asked for. False: there is nothing to be done any more."""
        if not self.ledger.begin(id_, attempt, worker=self.executor):
            return False
        entry = self._entry(id_)
        log.info("the job begins", extra={"facts": {"attempt": attempt, "what": entry.order.job.what}})
        try:
            self.planning.admit(entry)
            elsewhere = self._patience.ask(self.answers(entry).begin)
        except HostError as error:  # the work is worth more than the comment
            if is_ours(error):
                raise
            self.ledger.write(id_, [f"It could not be said that the job has begun: {error.sentence}"])
            elsewhere = None
        except MergeBotError as error:
            self.ledger.end(id_, attempt, failed(error))
            return False
        if elsewhere:
            self.ledger.end(id_, attempt, failed(done_elsewhere(elsewhere)))
        return not elsewhere

    async def plan(self, id_: str, attempt: int) -> None:
        """Plans it, and puts the merge in line; or does all of it, where somebody only wants to look."""
        if not await asyncio.to_thread(self.ledger.begin, id_, attempt, worker=self.executor):
            return
        entry = await asyncio.to_thread(self._entry, id_)
        try:
            async with self._reporter(lambda: (entry,)) as reporter:
                found = await self._told(reporter).ask_async(
                    lambda: self.planning.planned(entry, tell=reporter.tell, log=reporter.log)
                )
        except MergeBotError as error:
            found = failed(error)
        await asyncio.to_thread(self._planned, entry, found)

    def _planned(self, entry: Entry, found: Make | Outcome) -> None:
        id_, attempt = entry.order.job.key, entry.attempt
        if isinstance(found, Outcome):
            self.ledger.end(id_, attempt, found)
            return
        size = found.plan.estimate.output_bytes
        if not self.ledger.assign(id_, attempt, runner=found.runner, size=size):
            return
        try:
            self.planning.admit_size(self._entry(id_))
        except MergeBotError as error:
            self.ledger.end(id_, attempt, replace(failed(error), plan=found.plan))
            return
        make = self.ledger.join(id_, attempt, found.id)
        self.queues.make(make, as_dict(found), runner=found.runner)

    def finish(self, id_: str, attempt: int) -> None:
        """What has ended without a make gets its answer."""
        entry = self._entry(id_)
        if entry.attempt == attempt and entry.state not in ACTIVE:
            self._closing.answer(entry)

    # make

    def look(self, make: str, document: dict[str, Any]) -> bool:
        """Whether there is somebody who waits for it, and no earlier run has published it."""
        # Where nobody is there, nobody may come any more: who joined a make that ends here would wait for ever.
        there = self._begun(make) or (self.ledger.close(make) and self._begun(make))
        wanted = from_dict(Make, document)
        to = wanted.request.destination
        if not there or to is None or to.kind == "folder" or wanted.request.dry_run:
            return bool(there)
        try:
            hub = publisher(self.settings, to)
            found = self._patience.ask(lambda: hub.find(to, key=wanted.plan.key))
            if found is None:
                self._patience.ask(lambda: hub.check(to, plan=wanted.plan))
                return True
            public = self._patience.ask(lambda: hub.is_private(to)) is False
            outcome = Outcome(ended="skipped", plan=wanted.plan, publication=found, public=public)
        except MergeBotError as error:
            outcome = replace(failed(error), plan=wanted.plan)
        self._closing.end_all(make, outcome)
        return False

    def is_missing(self, make: str, document: dict[str, Any]) -> bool:  # noqa: ARG002 - of a make, as every step
        """Whether the destination has to be created for it. Where the Hub does not say so, it is left as it is."""
        to = from_dict(Make, document).request.destination
        with suppress(MergeBotError):
            return to is not None and self._patience.ask(
                lambda: publisher(self.settings, to).is_private(to) is None
            )
        return False

    async def shard(self, make: str, number: int, file: str, needed: int) -> dict[str, Any]:
        """One shard of a make: what came of it, or how it ended, as plain values."""
        document, _ = await asyncio.to_thread(self.queues.given, make)
        wanted = replace(from_dict(Make, document), id=make)
        runner = cast("Spreading", self.runners[SPREAD])
        try:
            done = await self._patience.ask_async(lambda: runner.shard(wanted, number, file, needed=needed))
        except MergeBotError as error:
            return {"failed": as_dict(replace(failed(error), plan=None))}
        return {"done": as_dict(done)}

    async def carry_out(self, make: str, document: dict[str, Any]) -> None:
        """Merges and publishes, and writes down how that ended for all who waited."""
        await asyncio.to_thread(self._begun, make)
        if not await asyncio.to_thread(self._is_awaited, make):  # begun again after its end
            return
        wanted = from_dict(Make, document)
        runner = self.runners[wanted.runner.partition(":")[0]]
        try:
            async with self._reporter(partial(self.ledger.waiting, make)) as reporter:
                outcome = await self._told(reporter).ask_async(
                    lambda: runner.carry_out(replace(wanted, id=make), tell=reporter.tell, log=reporter.log)
                )
        except MergeBotError as error:
            outcome = replace(failed(error), plan=wanted.plan)
            await asyncio.to_thread(self._closing.let_go, make, patience=self._patience)
        await asyncio.to_thread(self._closing.end_all, make, outcome)

    async def gate(self, make: str) -> None:
        """The last look before a publication. From here on those who still want it get it, and none can call it off."""
        await asyncio.to_thread(self._gate, make)

    def _gate(self, make: str) -> None:
        left = 0
        for entry in self.ledger.joined(make):
            id_, attempt = entry.order.job.key, entry.attempt
            if entry.state == "cancelling" and entry.now.stage == "publishing":
                self.ledger.hold(self.held)
                left += 1  # it came too late
                continue
            if entry.state not in ACTIVE or entry.state == "cancelling":
                continue
            try:
                answering = self.answers(entry)
                answering.begin()
                answering.check()
            except HostError:
                raise
            except MergeBotError as error:
                self._closing.end(entry, failed(error))
                continue
            left += self.ledger.publish(id_, attempt, held=self.held)
        if not left:
            raise StoppedError(
                "Nobody wants it any more; nothing was published.",
                advice="Ask for it again when you like.",
                code="cancelled",
            )

    def _begun(self, make: str) -> tuple[Entry, ...]:
        """Those who wait, and whom this executor works for from now on."""
        there = self.ledger.waiting(make)
        for entry in there:
            self.ledger.begin(entry.order.job.key, entry.attempt, worker=self.executor)
        return there

    def _is_awaited(self, make: str) -> bool:
        return any(entry.state in ACTIVE for entry in self.ledger.joined(make))

    def hand_over(self, make: str) -> None:
        """Everybody who waited gets an answer."""
        for entry in self.ledger.joined(make):
            if entry.state not in ACTIVE:
                self._closing.answer(entry)

    # answer

    def answer(self, id_: str, attempt: int) -> None:
        """Says how it ended, where it was asked for."""
        entry = self._entry(id_)
        outcome = entry.outcome
        if entry.attempt != attempt or outcome is None or is_elsewhere(outcome):
            return

        def said() -> None:
            answering = self.answers(entry)
            answering.begin()
            answering.end(outcome)
            if answering.note:
                self.ledger.write(id_, [answering.note])

        try:
            self._patience.ask(said)
        except MergeBotError as error:
            self.ledger.write(id_, [f"The end could not be told where it was asked for: {error.sentence}"])

    def tell_others(self, id_: str, attempt: int) -> None:
        """Notifies as configured, and tells the log."""
        entry = self._entry(id_)
        if entry.attempt == attempt and entry.outcome is not None:
            failure = entry.outcome.failure
            facts = {"attempt": attempt, **({"code": failure.code} if failure else {})}
            log.info("the job has ended: %s", entry.outcome.ended, extra={"facts": facts})
            self.notify(entry)

    # stop

    def stop(self, id_: str, attempt: int) -> None:
        """Calls it off: its plan, and its make if nobody else waits for that."""
        entry = self._entry(id_)
        if entry.attempt == attempt:
            self._closing.stop(entry, fresh=partial(self._entry, id_), patience=self._patience)

    # what they share

    @property
    def _closing(self) -> Closing:
        return Closing(ledger=self.ledger, queues=self.queues, runners=self.runners)

    @property
    def _patience(self) -> Patience:
        return Patience(wait=self.wait, tried=self.figures.tried)

    def _told(self, reporter: Reporter) -> Patience:
        """The same, and whoever looks at the job's log sees why it does not get on."""
        return replace(self._patience, told=reporter.log)

    def _entry(self, id_: str) -> Entry:
        found = self.ledger.entry(id_)
        if found is None:
            raise LookupError(f"there is no job {id_}")
        return found

    def _reporter(self, jobs: Callable[[], Any]) -> Reporter:
        return Reporter(
            jobs, ledger=self.ledger, answers=self.answers, stop=self._stopped, took=self.figures.took
        )

    def _stopped(self, entry: Entry, error: StoppedError) -> None:
        """Called off where it was asked for: its comment was deleted, or says so. A slow host says it late."""
        id_ = entry.order.job.key
        if self.ledger.cancel(id_, by=error.sentence, attempt=entry.attempt) is not None:
            self.queues.stop(id_, entry.attempt)
