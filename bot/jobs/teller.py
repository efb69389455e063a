"""Progress of one job on its way to the ledger: a new stage at once, figures within it once a second."""

from __future__ import annotations

import time

from bot.job import Now
from bot.jobs.ledger import Ledger

PAUSE = 1.0  # seconds


class Teller:
    """Hears everything and writes little. For one attempt at a job; `goes_on` is False when that is over."""

    def __init__(self, ledger: Ledger, id_: str, attempt: int) -> None:
        self._ledger, self._id, self._attempt = ledger, id_, attempt
        self._told: Now | None = None
        self._at = 0.0
        self.goes_on = True

    def __call__(self, now: Now) -> None:
        at = time.monotonic()
        new = self._told is None or now.stage != self._told.stage or now.done == now.total != self._told.done
        if now != self._told and (new or at - self._at >= PAUSE):
            self.goes_on = self._ledger.tell(self._id, self._attempt, now)
            self._told, self._at = now, at
