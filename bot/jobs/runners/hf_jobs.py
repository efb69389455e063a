"""Merges on machines that the Hub rents out: one job each, found again by its label, followed by its log.

The job publishes by itself, once it has the word. What it merges is mounted from the Hub, so it must not lie anywhere
else.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from bot.clients.hub_jobs import LABEL, OF, Hardware, HubJob, HubJobs, Mounted, Wanted
from bot.connect import hub_jobs, publisher, tokens
from bot.doors.work import failed
from bot.errors import HostError, InputError, MergeBotError, RefusedError
from bot.job import Outcome
from bot.jobs.runners import rent
from bot.jobs.runners.following import Following
from bot.jobs.runners.runner import Gate, Log, Make, Tell, open_gate
from bot.records import Plan, Publication
from bot.request import MergeRequest
from bot.serial import to_json
from bot.settings import Settings, told
from bot.wording import duration

MOST_TEXT = 100_000  # bytes of a request, which travels as an argument: Linux takes 131,072
VOLUMES = "/mnt/merge-bot"


@dataclass(frozen=True, kw_only=True)
class Rental:
    """Who pays (None: the token's user), which image runs there, and what may be rented.

    `every`: seconds between two looks at a job.
    """

    namespace: str | None = None
    image: str
    terms: rent.Terms = field(default_factory=rent.Terms)
    every: float = 5.0


def objection(request: MergeRequest, plan: Plan) -> RefusedError | None:
    """Why a job on the Hub cannot do it, if that is so."""
    to = request.destination
    if any(source.kind == "folder" for source in plan.sources):
        return RefusedError(
            "A job on the Hub merges what is on the Hub, and this adapter or base is a folder of this machine or of a"
            " GitHub PR.",
            advice="Merge it with the runner local or a pool, or upload it to the Hub first.",
            code="job-folder",
        )
    if to is None or to.kind == "folder":
        return RefusedError(
            "A job on the Hub leaves nothing on this machine, and the result was to go into a folder.",
            advice="Name a Hub repository as the destination, or merge with the runner local.",
            code="job-folder",
        )
    if len(to_json(request).encode()) > MOST_TEXT:
        return RefusedError(
            "The prompts and the text for the checks are too long to be handed to a job on the Hub.",
            advice="Ask for shorter ones, or merge with the runner local or a pool.",
            code="job-text",
        )
    return None


class HfJobs:
    """Implements `Runner`. `gate` is asked before a publication.

    `keeps`: whether what is called off now will be gone on with, here or elsewhere.
    """

    def __init__(
        self,
        rental: Rental,
        *,
        settings: Settings,
        keeps: Callable[[], bool] = lambda: False,
        gate: Gate = open_gate,
    ) -> None:
        self._rental, self._settings, self._keeps, self._gate = rental, settings, keeps, gate

    async def carry_out(self, make: Make, *, tell: Tell, log: Log) -> Outcome:
        try:
            if why := objection(make.request, make.plan):
                raise why
            jobs = hub_jobs(self._settings, namespace=self._rental.namespace)
            machines = await asyncio.to_thread(jobs.hardware)
            job, terms = await self._begin(make, jobs, machines, log)
        except (RefusedError, InputError) as error:
            return failed(error)
        machine = next((one for one in machines if one.name == job.flavor), None)
        following = Following(jobs, job, machine=machine, terms=terms, every=self._rental.every)
        try:
            said = await following.end(tell=tell, log=log, gate=partial(self._gate, make))
        except asyncio.CancelledError:
            if not self._keeps():
                await asyncio.shield(asyncio.to_thread(_cancel, jobs, job))
            raise
        return await asyncio.to_thread(self._outcome, make, following, said)

    def call_off(self, make: str) -> None:
        """Also where its executor was killed: the job on the Hub goes on without, and would publish."""
        jobs = hub_jobs(self._settings, namespace=self._rental.namespace)
        for job in jobs.find(_label(make)):
            if not job.ended:
                jobs.cancel(job.id)

    async def _begin(
        self, make: Make, jobs: HubJobs, machines: tuple[Hardware, ...], log: Log
    ) -> tuple[HubJob, rent.Terms]:
        """As `_begun`. Called off meanwhile, it leaves no job behind."""
        loop = asyncio.get_running_loop()

        def here(line: str) -> None:
            loop.call_soon_threadsafe(log, line)

        beginning = asyncio.ensure_future(asyncio.to_thread(self._begun, make, jobs, machines, here))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            with suppress(MergeBotError):
                job, _ = await beginning
                if not self._keeps():
                    await asyncio.to_thread(_cancel, jobs, job)
            raise

    def _terms(self, make: Make) -> rent.Terms:
        terms = self._rental.terms
        dollars = [most for most in (terms.dollars, make.dollars) if most is not None]
        seconds = terms.seconds if make.seconds is None else min(terms.seconds, make.seconds)
        return replace(terms, seconds=seconds, dollars=min(dollars, default=None))

    def _begun(
        self, make: Make, jobs: HubJobs, machines: tuple[Hardware, ...], log: Log
    ) -> tuple[HubJob, rent.Terms]:
        """The job that works on it, if there is one, or has just done so; else a new one. With what it may cost."""
        tries = jobs.find(_of(make), label=OF)
        found = [job for job in tries if job.labels.get(LABEL) == label(make)]
        # What another attempt has brought to its end was worth its price.
        lost = [job for job in tries if job.ended and (job.stage != "COMPLETED" or job in found)]
        spent = rent.spent(lost, hardware=machines)
        terms = rent.less(self._terms(make), spent)
        if going := next((job for job in found if not job.ended), None):
            log(f"Taken up again: {going.url}")
            return going, terms
        done = [job for job in found if job.stage == "COMPLETED"]
        if done and self._published(make):
            log(f"It was done meanwhile: {done[-1].url}")
            return done[-1], self._terms(make)
        if spent:
            log(f"Earlier tries at it have cost ${spent:.2f}, which counts.")
        offer = rent.offer(make.request, make.plan, hardware=machines, terms=terms)
        log(
            f"Renting {offer.machine.name}: about {duration(offer.seconds)} and ${offer.dollars:.2f},"
            f" at most {duration(offer.limit)} and ${rent.price(offer.machine, offer.limit):.2f}"
        )
        mine = jobs.start(self._wanted(make, offer))
        going = next((job for job in jobs.find(label(make)) if not job.ended), mine)
        if going.id != mine.id:  # somebody else was a moment earlier
            jobs.cancel(mine.id)
        log(f"Job: {going.url}")
        return going, terms

    def _wanted(self, make: Make, offer: rent.Offer) -> Wanted:
        sources = sorted({(source.location, source.commit) for source in make.plan.sources})
        volumes = tuple(
            Mounted(repository=location, commit=commit, place=f"{VOLUMES}/{number}")
            for number, (location, commit) in enumerate(sources)
        )
        mounts = " ".join(f"{v.repository}@{v.commit}={v.place}" for v in volumes)
        own = secrets.token_hex(20)
        payer = ("--namespace", self._rental.namespace) if self._rental.namespace else ()
        return Wanted(
            image=self._rental.image,
            command=("merge-bot", "make", "--job", own, *payer, "--", to_json(make.request)),
            flavor=offer.machine.name,
            seconds=offer.limit,
            key=label(make),
            of=_of(make),
            own=own,
            environment={**told(self._settings), "MERGE_BOT_MOUNTS": mounts},
            secrets=tokens(self._settings),
            volumes=volumes,
        )

    def _published(self, make: Make) -> Publication | None:
        to = make.request.destination
        return publisher(self._settings, to).find(to, key=make.plan.key) if to else None

    def _outcome(self, make: Make, following: Following, said: Outcome | None) -> Outcome:
        """What it said of itself, else what can be seen of it; with the bill. Raises HostError for what is lost."""
        if said is None and following.job.stage == "COMPLETED" and (found := self._published(make)):
            said = Outcome(ended="published", publication=replace(found, existed=False), plan=make.plan)
        if said is None:
            error = following.why
            if isinstance(error, HostError):
                raise error
            said = failed(error)
        if (
            said.publication is not None and not make.request.dry_run
        ):  # also one of an earlier run of this make
            said = replace(said, ended="published")
        return replace(said, plan=said.plan or make.plan, bill=following.bill)


def _cancel(jobs: HubJobs, job: HubJob) -> None:
    with suppress(MergeBotError):  # its own time-out ends it then
        jobs.cancel(job.id)


def label(make: Make) -> str:
    """What its job is found again by: 40 of the characters that a label may have."""
    return _label(make.id)


def _of(make: Make) -> str:
    """What all attempts at it share; its id ends with the number of this one."""
    return _label(make.id.rpartition("-")[0] or make.id)


def _label(make: str) -> str:
    return hashlib.sha256(make.encode()).hexdigest()[:40]
