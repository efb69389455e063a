"""Removes what is old from the database, at the start and then each hour, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time

from bot.errors import HostError
from bot.jobs.database import Database
from bot.jobs.queues import Queues
from bot.jobs.reading import DAY
from bot.jobs.retention import Swept, sweep

EVERY = 3600.0  # seconds
PATIENCE = 5.0  # seconds that a stop waits for it
log = logging.getLogger("bot.jobs")


def clean(database: Database, queues: Queues, *, log_days: float, job_days: float) -> Swept:
    """Removes logs and jobs that ended longer ago than that, and DBOS's workflows of them.

    Those go a day earlier: attempts at a job that is gone are counted from 1 again, and may find no old workflow.
    """
    queues.forget(before=time.time() - (job_days - 1) * DAY)
    return sweep(database, log_days=log_days, job_days=job_days)


class Cleaner:
    """`start` it and `stop` it; what fails is tried again an hour later."""

    def __init__(self, database: Database, queues: Queues, *, log_days: float, job_days: float) -> None:
        self._database, self._queues = database, queues
        self._log_days, self._job_days = log_days, job_days
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
                swept = clean(self._database, self._queues, log_days=self._log_days, job_days=self._job_days)
                if swept.jobs or swept.lines or swept.deliveries:
                    log.info("removed what is old", extra={"facts": vars(swept)})
            except HostError as error:
                log.warning("what is old stays for now: %s", error.sentence)
            if self._stop.wait(EVERY):
                return
