"""Follows a job on the Hub to its end: how it is, what it says, the word that it waits for, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from bot.clients.hub_jobs import Hardware, HubJob, HubJobs
from bot.doors.work import failed
from bot.errors import HostError, MergeBotError
from bot.job import Bill, Now, Outcome
from bot.jobs.clock import passed
from bot.jobs.runners import rent
from bot.jobs.runners.ended import reason
from bot.jobs.runners.listening import Listening
from bot.jobs.runners.runner import Log, Tell

NEARLY = 0.9  # of what a job may cost, when its time is over: the Hub counts whole seconds
LATE = 60.0  # seconds that the Hub may take to end a job by itself
AWAY = 1800.0  # seconds without an answer of the Hub's after which a job that may well go on is given up


class Following:
    """One job from now until it has ended. `every`: seconds between two looks at it."""

    def __init__(
        self, jobs: HubJobs, job: HubJob, *, machine: Hardware | None, terms: rent.Terms, every: float
    ) -> None:
        self._jobs, self.job = jobs, job
        self._machine, self._terms, self._every = machine, terms, every
        self._limit = rent.limit(machine, terms) if machine else terms.seconds
        self._late = False
        self._since: float | None = None  # when the Hub last began not to answer
        self._stopped: Outcome | None = None

    async def end(self, *, tell: Tell, log: Log, gate: Callable[[], Awaitable[None]]) -> Outcome | None:
        """Waits for it, and gives what it says of itself; or why it may not publish."""

        def told(
            now: Now,
        ) -> None:  # from `publishing` on nobody can call it off: that is for the gate to say
            tell(now if self.job.allowed or now.stage != "publishing" else replace(now, stage="validating"))

        listening = Listening(self._jobs, self.job, tell=told, log=log)
        try:
            while not self.job.ended:
                await asyncio.sleep(self._every)
                await self._look(log)
                if (self.job.seconds or 0) > self._limit + LATE:  # the Hub's own clock should have ended it
                    self._late = True
                    await asyncio.to_thread(self._jobs.cancel, self.job.id)
                elif self._since is None and listening.asks and not self._is_answered:
                    await self._answer(gate)
            await listening.finished()
        finally:
            listening.stop()
        return self._stopped or listening.outcome

    @property
    def _is_answered(self) -> bool:
        return self.job.allowed or self.job.ended or self._stopped is not None

    async def _look(self, log: Log) -> None:
        """How the job is now. A Hub that is away for a while ends no job that has run for hours."""
        try:
            self.job = await asyncio.to_thread(self._jobs.look, self.job.id)
        except HostError as error:
            if self._since is None:
                self._since = passed()
                log(f"{error.sentence} The job is looked at again and again.")
            if passed() - self._since > AWAY:
                raise
        else:
            self._since = None

    async def _answer(self, gate: Callable[[], Awaitable[None]]) -> None:
        """Gives it the word, or ends it. Raises HostError where the question could not be decided: it waits."""
        try:
            await gate()
        except HostError:
            raise
        except MergeBotError as error:
            self._stopped = failed(error)
            await asyncio.to_thread(self._jobs.cancel, self.job.id)
        else:
            self.job = await asyncio.to_thread(self._jobs.allow, self.job)

    @property
    def why(self) -> MergeBotError:
        """Why it has ended without a word."""
        bill, most = self.bill, self._terms.dollars
        paid = bill is not None and most is not None and bill.dollars >= most * NEARLY
        return reason(self.job, late=self._late, paid=most if paid else None)

    @property
    def bill(self) -> Bill | None:
        """What it cost; None for a machine whose price the Hub does not tell any more."""
        if self._machine is None:
            return None
        seconds = self.job.seconds or 0.0
        dollars = rent.price(self._machine, seconds)
        return Bill(machine=self._machine.name, seconds=seconds, dollars=dollars, url=self.job.url)
