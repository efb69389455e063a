"""Sees now and then, in a thread of its own, to what nobody waits for: what is old or forgotten goes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bot.errors import HostError
from bot.jobs.database import Database
from bot.jobs.queues import Queues
from bot.jobs.reading import DAY
from bot.jobs.retention import Swept, sweep

HOURLY, EVERY = 3600.0, 60.0  # seconds between two rounds
PATIENCE = 5.0  # seconds that a stop waits for it
log = logging.getLogger("bot.jobs")


def clean(database: Database, queues: Queues, *, log_days: float, job_days: float) -> Swept:
    """Removes logs and jobs that ended longer ago than that, and DBOS's workflows of them.

    Those go a day earlier: attempts at a job that is gone are counted from 1 again, and may find no old workflow.
    """
    queues.forget(before=time.time() - (job_days - 1) * DAY)
    swept = sweep(database, log_days=log_days, job_days=job_days)
    if swept.jobs or swept.lines or swept.deliveries:
        log.info("removed what is old", extra={"facts": vars(swept)})
    return swept


class Cleaner:
    """`start` it and `stop` it: it does `work` at once and then so often; what fails is tried again the next time."""

    def __init__(self, work: Callable[[], object], *, every: float) -> None:
        self._work, self._every = work, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cleaner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=PATIENCE)

    def _run(self) -> None:
        while True:
            try:
                self._work()
            except HostError as error:
                log.warning("what is to be cleared away stays for now: %s", error.sentence)
            except Exception:  # the next round may do better
                log.exception("what is to be cleared away stays for now")
            if self._stop.wait(self._every):
                return
