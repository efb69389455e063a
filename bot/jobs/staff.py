"""Everybody who works in the service, as the configuration has it: the executor of this process, and the clerk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bot.clients.posting import post
from bot.config.models import Config
from bot.doors.pushed import within
from bot.isolation.forking import ForkServer, fork_server
from bot.jobs.answers import Answerer
from bot.jobs.cache import Cache
from bot.jobs.cleaner import EVERY, HOURLY, Cleaner, clean
from bot.jobs.clerk import Clerk
from bot.jobs.database import Database
from bot.jobs.engine import Engine
from bot.jobs.flow import Flow
from bot.jobs.inbox import Inbox
from bot.jobs.lease import SECONDS, Lease
from bot.jobs.local import Local
from bot.jobs.notifying import Notifier
from bot.jobs.office import Office
from bot.jobs.places import Places, thread_of
from bot.jobs.planning import Planning, Quota
from bot.jobs.queues import ANSWERS, HF_JOBS, JOBS, LOCAL, SPREAD, STOPS, Queues, queue_of
from bot.jobs.runners.choose import choose, rental
from bot.jobs.runners.hf_jobs import HfJobs
from bot.jobs.runners.runner import Make, Runner
from bot.jobs.scratch import CACHE, Scratch
from bot.jobs.seen import Memory
from bot.jobs.slot import Slot
from bot.jobs.spread import Spreading
from bot.jobs.unserved import swept, unserved
from bot.jobs.workers import Workers
from bot.settings import Settings

AT_ONCE = 4  # plans, answers, and jobs that are called off: of each
RENTED = 16  # jobs on the Hub that one executor follows
WAITING = 256  # makes that wait for their shards on one executor, which costs it a look a second
log = logging.getLogger("bot.jobs")


class Staff:
    """This process's share of the work; implements `bot.serve.run.Work`.

    `pools`: the queues that this executor merges for, as a worker on a machine of its own; none: all that one machine
    does. `inbox`: what the clerk reads, if it is this process's. `lost` is called once, when others have taken over
    what this executor had begun: the process has to end.
    """

    def __init__(
        self,
        config: Config,
        settings: Settings,
        *,
        database: Database,
        lost: Callable[[], None],
        inbox: Inbox | None = None,
        pools: Sequence[str] = (),
        seconds: float = SECONDS,
    ) -> None:
        """Raises InputError or MergeError for folders that cannot be used."""
        self._slot = Slot(config.server.state.absolute() / "slots")
        queues = Queues(database)
        lease = Lease(self._slot.name, workers=Workers(database), queues=queues, lost=lost, seconds=seconds)
        tools = _tools(config, settings, database=database, queues=queues, lease=lease)
        runners: dict[str, Runner] = {}
        flow = _flow(tools, runners)
        first = {
            **dict.fromkeys((JOBS, ANSWERS, STOPS), AT_ONCE),
            LOCAL: config.worker.jobs,
            HF_JOBS: RENTED,
            SPREAD: WAITING,
        }
        takes = {queue_of(f"pool:{name}"): 1 for name in pools} or first
        self._engine = Engine(flow, database=database, lease=lease, scratch=tools.scratch, takes=takes)
        runners |= _runners(tools, flow, self._engine)
        self._queues, self.office, self.figures = queues, tools.office, flow.figures
        self._forks = tools.forks
        self._pools = dict.fromkeys((queue_of(f"pool:{name}") for name in config.worker.queues), 1)
        self._clerk = Clerk(inbox, tools.places.doors(), place=thread_of) if inbox is not None else None
        self._cleaners = _cleaners(tools, database, pools=[*self._pools] if inbox is not None else None)

    @property
    def executor(self) -> str:
        """Its name, in the ledger and in logs."""
        return self._slot.name

    def trouble(self) -> str:
        """What keeps it from working, in a sentence; empty while it works."""
        if not self._engine.alive():
            return "The worker has not begun, has ended, or has lost its lease."
        if self._clerk is not None and not self._clerk.alive():
            return "Nobody reads the inbox."
        return ""

    def start(self) -> None:
        """Begins to work; returns at once. Raises HostError without the database."""
        self._queues.prepare(self._pools)
        self._engine.start()
        if self._clerk is not None:
            self._clerk.start()
        for each in self._cleaners:
            each.start()
        log.info("the executor %s takes jobs", self.executor)

    def stop(self, *, seconds: float) -> None:
        """Takes no more, waits that long for what it has, and hands the rest back. Blocks."""
        began = time.monotonic()
        if self._clerk is not None:
            self._clerk.stop(seconds=seconds / 4)  # what a slow host keeps it from deciding comes again
        for each in self._cleaners:
            each.stop()
        self._engine.stop(seconds=max(0.0, seconds - (time.monotonic() - began)))
        if self._forks is not None:
            self._forks.close()
        self._queues.close()
        self._slot.close()


@dataclass(frozen=True, kw_only=True)
class _Tools:
    """What all of them share."""

    config: Config
    settings: Settings
    queues: Queues
    office: Office
    scratch: Scratch
    lease: Lease
    places: Places
    forks: ForkServer | None


def _tools(config: Config, settings: Settings, *, database: Database, queues: Queues, lease: Lease) -> _Tools:
    """Raises MergeError for a folder that cannot be used."""
    state, there = config.server.state.absolute(), config.worker
    root = (there.scratch or state / "scratch").absolute()
    cache = Cache(folder=(there.cache or root / CACHE).absolute(), most=there.cache_bytes)
    cache.prepare()
    terms = replace(settings.terms, limits=config.limits.limits())
    known = replace(settings, terms=terms, scratch=None, cache=cache.folder)
    office = Office(database, queues)
    return _Tools(
        config=config,
        settings=known,
        queues=queues,
        office=office,
        scratch=Scratch(root, most=there.scratch_bytes, cache=cache),
        lease=lease,
        places=Places(config=config, settings=known, office=office, folder=state, seen=Memory(database)),
        forks=fork_server(known),
    )


def _flow(tools: _Tools, runners: Mapping[str, Runner]) -> Flow:
    config, places, lease = tools.config, tools.places, tools.lease
    planning = Planning(
        settings=tools.settings,
        ledger=tools.office,
        scratch=tools.scratch,
        fetch=places.fetch,
        choose=partial(choose, config=config),
        within=partial(within, defaults=config.defaults),
        quota=Quota(jobs=config.quotas.jobs_per_day, gb=config.quotas.gb_per_day),
        seconds=config.worker.hours * 3600,
        alive=lease.alive,
        patience=lease.patience,
        forks=tools.forks,
    )
    return Flow(
        executor=lease.executor,
        settings=tools.settings,
        ledger=tools.office,
        queues=tools.queues,
        answers=Answerer(places.threads()),
        planning=planning,
        runners=runners,
        held=lease.held,
        notify=Notifier(
            config.notify,
            post=partial(post, timeout=tools.settings.timeout),
            public_url=config.server.public_url,
        ),
    )


def _runners(tools: _Tools, flow: Flow, engine: Engine) -> dict[str, Runner]:
    async def gate(make: Make) -> None:
        await flow.gate(make.id)

    def keeps() -> bool:
        return engine.draining

    local = Local(
        settings=tools.settings,
        scratch=tools.scratch,
        fetch=tools.places.fetched,
        gate=gate,
        keeps=keeps,
        alive=tools.lease.alive,
        memory=tools.config.worker.memory_bytes,
        seconds=tools.config.worker.hours * 3600,
        patience=tools.lease.patience,
        forks=tools.forks,
    )
    spreading = Spreading(local=local, queues=tools.queues, at_once=tools.config.worker.shards)
    found: dict[str, Runner] = {"local": local, "pool": local, SPREAD: spreading}
    if (rented := rental(tools.config)) is not None:
        found["hf-jobs"] = HfJobs(rented, settings=tools.settings, keeps=keeps, gate=gate)
    return found


def _cleaners(tools: _Tools, database: Database, *, pools: list[str] | None) -> list[Cleaner]:
    """`pools`: whose makes are looked after where this process reads the inbox; None where it does not."""
    cleaners = [Cleaner(partial(swept, tools.scratch, tools.office), every=EVERY)]
    if pools is not None:
        kept = tools.config.retention
        old = partial(clean, database, tools.queues, log_days=kept.log_days, job_days=kept.job_days)
        cleaners.append(Cleaner(partial(unserved, tools.office, tools.queues, pools), every=EVERY))
        cleaners.append(Cleaner(old, every=HOURLY))
    return cleaners
