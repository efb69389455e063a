"""The lease of one executor, renewed as long as we live; the jobs of whoever lets theirs lapse are taken over.

Three times follow from one: after a quarter of `seconds` without a renewal no step gets a sign of life any more, after
another half a step without one ends itself, and only after the whole is a job taken over. No clock on a wall is read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from bot.errors import HostError
from bot.jobs.queues import Queues
from bot.jobs.workers import TAKEN, Workers

SECONDS = 120.0
log = logging.getLogger("bot.jobs")


class Lease:
    """Renewed in a thread of its own. `lost` is called once, when somebody else has taken our jobs over."""

    def __init__(
        self,
        executor: str,
        *,
        workers: Workers,
        queues: Queues,
        lost: Callable[[], None],
        seconds: float = SECONDS,
    ) -> None:
        self.executor, self.seconds = executor, seconds
        self._workers, self._queues, self._lost = workers, queues, lost
        self._stop = threading.Event()
        self._beat = 0
        self._renewed = self._looked = 0.0
        self._gone = False
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    @property
    def patience(self) -> float:
        """Seconds that a step may be without a sign of life."""
        return self.seconds / 2

    def alive(self) -> bool:
        """Whether this executor may go on with what it has begun."""
        return not self._gone and time.monotonic() - self._renewed < self.seconds / 4

    def start(self) -> None:
        """Begins. Raises HostError without the database."""
        self._renewed = time.monotonic()
        self._beat = self._workers.beat(self.executor)
        self._thread.start()

    def stop(self) -> None:
        """Ends it: what was begun is somebody else's from now on."""
        self._stop.set()
        self._thread.join(timeout=10)
        if not self._gone:
            self._queues.hand_back(self.executor)
            self._workers.leave(self.executor)

    def _run(self) -> None:
        while not self._stop.wait(self.seconds / 24):
            try:
                self._renew()
                if self._gone:
                    return
                self._look()
            except HostError as error:
                log.warning("the lease is not renewed: %s", error.sentence)
            except Exception:
                log.exception("the lease met a fault of its own")

    def _renew(self) -> None:
        begun, before = time.monotonic(), self._beat
        self._beat = self._workers.beat(self.executor)
        if before < self._beat < before + TAKEN:
            self._renewed = begun
        else:
            self._gone = True
            log.error("another executor has taken over what this one had begun; it stops")
            self._lost()

    def _look(self) -> None:
        now, before = time.monotonic(), self._looked
        self._looked = now
        if now - before > self.seconds / 4:  # we were away, or the database was, and so perhaps were they
            self._workers.forget()
        for executor in self._workers.gone(seconds=self.seconds):
            if executor == self.executor:
                continue
            if self._workers.take(executor):
                count = self._queues.hand_back(executor)
                self._workers.leave(executor)
                log.warning("%s is gone; %d of its jobs are begun again", executor, count)
