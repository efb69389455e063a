"""What is done for a job, in steps that may each be begun again: DBOS sees to it that none is left out.

`job` says that it is begun, plans, and waits for a `make`; `make` merges and publishes once for all who wait;
`answer` tells one of them how it ended; `stop` calls one off. Everything large lies in the ledger; what DBOS keeps of
a workflow is its id, its arguments and which steps are done. `bot.jobs.engine` runs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from bot.connect import publisher
from bot.doors.work import failed
from bot.errors import HostError, MergeBotError, StoppedError
from bot.job import Outcome
from bot.jobs.figures import Figures
from bot.jobs.ledger import Ledger
from bot.jobs.order import ACTIVE, Entry
from bot.jobs.planning import Planning
from bot.jobs.queues import Queues, job_id
from bot.jobs.reporter import Answers, Reporter
from bot.jobs.runners.runner import Make, Runner
from bot.serial import as_dict, from_dict
from bot.settings import Settings

T = TypeVar("T")
TRIES = 6  # of something that the host is at fault for: two and a half minutes in all
WAITS = wait_exponential(multiplier=5, max=80)
CANCELLED = failed(
    StoppedError(
        "It was cancelled; nothing was published.", advice="Ask for it again when you like.", code="cancelled"
    )
)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One executor's: what its steps need.

    `answers` finds where a job is answered; `planning` plans; `runners` are those that this executor serves, by the
    name of a runner without its queue; `notify` tells others how a job ended.
    """

    executor: str
    settings: Settings
    ledger: Ledger
    queues: Queues
    answers: Answers
    planning: Planning
    runners: Mapping[str, Runner]
    notify: Callable[[Entry], None] = field(default=lambda _: None)
    figures: Figures = field(default_factory=Figures)
    wait: Any = WAITS

    # job

    def begin(self, id_: str, attempt: int) -> bool:
        """Says so where it was asked for. False: there is nothing to be done any more."""
        if not self.ledger.begin(id_, attempt, worker=self.executor):
            return False
        entry = self._entry(id_)
        try:
            self.planning.admit(entry)
            elsewhere = self._persistently(self.answers(entry).begin)
        except HostError as error:  # the work is worth more than the comment
            self.ledger.write(id_, [f"It could not be said that the job has begun: {error.sentence}"])
            elsewhere = None
        except MergeBotError as error:
            self.ledger.end(id_, attempt, failed(error))
            return False
        if elsewhere:
            self.ledger.end(id_, attempt, failed(_elsewhere(elsewhere)))
        return not elsewhere

    async def plan(self, id_: str, attempt: int) -> None:
        """Plans it, and puts the merge in line; or does all of it, where somebody only wants to look."""
        if not await asyncio.to_thread(self.ledger.begin, id_, attempt, worker=self.executor):
            return
        entry = await asyncio.to_thread(self._entry, id_)
        try:
            async with self._reporter(lambda: (entry,)) as reporter:
                found = await self._persistently_async(
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
            self._answer(entry)

    # make

    def look(self, make: str, document: dict[str, Any]) -> bool:
        """Whether there is somebody who waits for it, and no earlier run has published it."""
        there = self._begun(make)
        wanted = from_dict(Make, document)
        to = wanted.request.destination
        if not there or to is None or to.kind == "folder" or wanted.request.dry_run:
            return bool(there)
        try:
            found = self._persistently(lambda: publisher(self.settings, to).find(to, key=wanted.plan.key))
            if found is None:
                return True
            public = publisher(self.settings, to).is_private(to) is False
            outcome = Outcome(ended="skipped", plan=wanted.plan, publication=found, public=public)
        except MergeBotError as error:
            outcome = replace(failed(error), plan=wanted.plan)
        self._end_all(make, outcome)
        return False

    async def carry_out(self, make: str, document: dict[str, Any]) -> None:
        """Merges and publishes, and writes down how that ended for all who waited."""
        await asyncio.to_thread(self._begun, make)
        wanted = from_dict(Make, document)
        runner = self.runners[wanted.runner.partition(":")[0]]
        try:
            async with self._reporter(partial(self.ledger.waiting, make)) as reporter:
                outcome = await self._persistently_async(
                    lambda: runner.carry_out(replace(wanted, id=make), tell=reporter.tell, log=reporter.log)
                )
        except MergeBotError as error:
            outcome = replace(failed(error), plan=wanted.plan)
        await asyncio.to_thread(self._end_all, make, outcome)

    async def gate(self, make: str) -> None:
        """The last look before a publication. From here on those who still want it get it, and none can call it off."""
        await asyncio.to_thread(self._gate, make)

    def _gate(self, make: str) -> None:
        left = 0
        for entry in self.ledger.joined(make):
            id_, attempt = entry.order.job.key, entry.attempt
            if entry.state == "cancelling" and entry.now.stage == "publishing":
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
                self._end(entry, failed(error))
                continue
            left += self.ledger.publish(id_, attempt)
        if not left:
            raise StoppedError(
                "Nobody wants it any more; nothing was published.",
                advice="Ask for it again when you like.",
                code="cancelled",
            )

    def _end_all(self, make: str, outcome: Outcome) -> None:
        self.ledger.close(make)
        for entry in self.ledger.joined(make):
            if entry.state not in ACTIVE:
                continue
            called_off = entry.state == "cancelling" and outcome.ended != "published"
            self._end(entry, CANCELLED if called_off else outcome)

    def _begun(self, make: str) -> tuple[Entry, ...]:
        """Those who wait, and whom this executor works for from now on."""
        there = self.ledger.waiting(make)
        for entry in there:
            self.ledger.begin(entry.order.job.key, entry.attempt, worker=self.executor)
        return there

    def hand_over(self, make: str) -> None:
        """Everybody who waited gets an answer."""
        for entry in self.ledger.joined(make):
            if entry.state not in ACTIVE:
                self._answer(entry)

    # answer

    def answer(self, id_: str, attempt: int) -> None:
        """Says how it ended, where it was asked for."""
        entry = self._entry(id_)
        outcome = entry.outcome
        if entry.attempt != attempt or outcome is None or _is_elsewhere(outcome):
            return

        def said() -> None:
            answering = self.answers(entry)
            answering.begin()
            answering.end(outcome)
            if answering.note:
                self.ledger.write(id_, [answering.note])

        try:
            self._persistently(said)
        except MergeBotError as error:
            self.ledger.write(id_, [f"The end could not be told where it was asked for: {error.sentence}"])

    def tell_others(self, id_: str, attempt: int) -> None:
        """Notifies as configured."""
        entry = self._entry(id_)
        if entry.attempt == attempt and entry.outcome is not None:
            self.notify(entry)

    # stop

    def stop(self, id_: str, attempt: int) -> None:
        """Calls it off: its plan, and its make if nobody else waits for that."""
        entry = self._entry(id_)
        if entry.attempt != attempt or entry.state != "cancelling" or entry.now.stage == "publishing":
            return
        self.queues.cancel(job_id(id_, attempt))
        entry = self._entry(id_)
        if entry.make and not self.ledger.waiting(entry.make) and not self.ledger.close(entry.make):
            self.queues.cancel(entry.make)
        self._end(entry, CANCELLED)

    # what they share

    def _end(self, entry: Entry, outcome: Outcome) -> None:
        self.ledger.end(entry.order.job.key, entry.attempt, outcome)
        self._answer(entry)

    def _answer(self, entry: Entry) -> None:
        self.queues.answer(entry.order.job.key, entry.attempt)

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
        """Called off where it was asked for: its comment was deleted, or says so."""
        id_ = entry.order.job.key
        if self.ledger.cancel(id_, by=error.sentence) is not None:
            self.queues.stop(id_, entry.attempt)

    def _persistently(self, ask: Callable[[], T]) -> T:
        return Retrying(**self._again)(ask)

    async def _persistently_async(self, ask: Callable[[], Awaitable[T]]) -> T:
        trying = AsyncRetrying(**self._again)

        async def asked() -> T:  # a lambda would not be seen to be a coroutine function
            return await ask()

        return await trying(asked)

    @property
    def _again(self) -> dict[str, Any]:
        again = {"retry": retry_if_exception_type(HostError), "stop": _enough, "wait": self.wait}
        return {**again, "after": self.figures.tried, "reraise": True}


def _enough(state: RetryCallState) -> bool:
    """A database that is away is waited for; a host gets so many tries."""
    error = state.outcome.exception() if state.outcome else None
    ours = isinstance(error, HostError) and error.code.startswith(("database-", "lease-"))
    return not ours and state.attempt_number >= TRIES


def _elsewhere(url: str) -> StoppedError:
    return StoppedError(
        f"The same job is being done already: {url}.", advice="Its answer is there.", code="done-elsewhere"
    )


def _is_elsewhere(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.code == "done-elsewhere"
