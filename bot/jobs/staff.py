"""Everybody who works in the service, as the configuration has it: the executor of this process, and the clerk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from bot.clients.posting import post
from bot.config.models import Config
from bot.doors.pushed import within
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
from bot.jobs.places import Places
from bot.jobs.planning import Planning, Quota
from bot.jobs.queues import ANSWERS, HF_JOBS, JOBS, LOCAL, STOPS, Queues, queue_of
from bot.jobs.runners.choose import choose, rental
from bot.jobs.runners.hf_jobs import HfJobs
from bot.jobs.runners.runner import Runner
from bot.jobs.scratch import CACHE, Scratch
from bot.jobs.slot import Slot
from bot.jobs.unserved import swept, unserved
from bot.jobs.workers import Workers
from bot.settings import Settings

AT_ONCE = 4  # plans, answers, and jobs that are called off: of each
RENTED = 16  # jobs on the Hub that one executor follows
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
        state, there = config.server.state.absolute(), config.worker
        terms = replace(settings.terms, limits=config.limits.limits())
        self._queues = Queues(database)
        self.office = Office(database, self._queues)
        self._pools = dict.fromkeys(map(queue_of, (f"pool:{name}" for name in there.queues)), 1)
        root = (there.scratch or state / "scratch").absolute()
        cache = Cache(folder=(there.cache or root / CACHE).absolute(), most=there.cache_bytes)
        scratch = Scratch(root, most=there.scratch_bytes, cache=cache)
        known = replace(settings, terms=terms, scratch=None, cache=cache.folder)
        self._slot = Slot(state / "slots")
        lease = Lease(
            self._slot.name, workers=Workers(database), queues=self._queues, lost=lost, seconds=seconds
        )
        places = Places(config=config, settings=known, office=self.office, folder=state)
        planning = Planning(
            settings=known,
            ledger=self.office,
            scratch=scratch,
            fetch=places.fetch,
            choose=partial(choose, config=config),
            within=partial(within, defaults=config.defaults),
            quota=Quota(jobs=config.quotas.jobs_per_day, gb=config.quotas.gb_per_day),
            seconds=there.hours * 3600,
            alive=lease.alive,
            patience=lease.patience,
        )
        runners: dict[str, Runner] = {}
        flow = Flow(
            executor=self._slot.name,
            settings=known,
            ledger=self.office,
            queues=self._queues,
            answers=Answerer({"github": places.thread, "hub": places.thread}),
            planning=planning,
            runners=runners,
            held=lease.held,
            notify=Notifier(config.notify, post=partial(post, timeout=known.timeout)),
        )
        self.figures = flow.figures
        takes = {queue_of(f"pool:{name}"): 1 for name in pools}
        first = dict.fromkeys((JOBS, ANSWERS, STOPS), AT_ONCE)
        takes = takes or {**first, LOCAL: there.jobs, HF_JOBS: RENTED}
        self._engine = Engine(flow, database=database, lease=lease, scratch=scratch, takes=takes)
        runners["local"] = runners["pool"] = Local(
            settings=known,
            scratch=scratch,
            fetch=places.fetched,
            gate=lambda make: flow.gate(make.id),
            keeps=lambda: self._engine.draining,
            alive=lease.alive,
            memory=there.memory_bytes,
            patience=lease.patience,
        )
        if (rented := rental(config)) is not None:
            runners["hf-jobs"] = HfJobs(
                rented,
                settings=known,
                keeps=lambda: self._engine.draining,
                gate=lambda make: flow.gate(make.id),
            )
        self._clerk = Clerk(inbox, places.doors()) if inbox is not None else None
        kept = config.retention
        days = {"log_days": kept.log_days, "job_days": kept.job_days}
        sweep = partial(clean, database, self._queues, **days)
        forgotten = [partial(swept, scratch, self.office)]
        if inbox is not None:
            forgotten.append(partial(unserved, self.office, self._queues, [*self._pools]))
        self._cleaners = [Cleaner(each, every=EVERY) for each in forgotten]
        if inbox is not None:
            self._cleaners.append(Cleaner(sweep, every=HOURLY))

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
        self._queues.close()
        self._slot.close()
