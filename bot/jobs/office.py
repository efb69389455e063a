"""The desk of the service: what doors, pages and commands ask for, put into the ledger and in line."""

from __future__ import annotations

from collections.abc import Mapping

from bot.doors.work import broken
from bot.jobs.flow import CANCELLED
from bot.jobs.ledger import Ledger
from bot.jobs.order import ACTIVE, Entry, Line, Order, State
from bot.jobs.queues import DEAD, Queues, job_id

MOST = 100_000  # jobs that are looked through at once


class Office:
    """Implements `bot.jobs.desk.Desk`. What is written into the ledger is put in line, if need be by `tidy`."""

    def __init__(self, ledger: Ledger, queues: Queues) -> None:
        self._ledger, self._queues = ledger, queues

    def enqueue(self, order: Order) -> Entry:
        return self._in_line(self._ledger.create(order))

    def entry(self, id_: str) -> Entry | None:
        return self._ledger.entry(id_)

    def entries(
        self,
        *,
        states: frozenset[State] = frozenset(),
        text: str = "",
        before: float | None = None,
        limit: int = 50,
    ) -> tuple[Entry, ...]:
        return self._ledger.entries(states=states, text=text, before=before, limit=limit)

    def lines(self, id_: str, *, after: int = 0, limit: int = 1000) -> tuple[Line, ...]:
        return self._ledger.lines(id_, after=after, limit=limit)

    def counts(self) -> Mapping[State, int]:
        return self._ledger.counts()

    def cancel(self, id_: str, *, by: str) -> Entry | None:
        entry = self._ledger.cancel(id_, by=by)
        return entry and self._in_line(entry)

    def retry(self, id_: str, *, by: str) -> Entry | None:
        entry = self._ledger.retry(id_, by=by)
        return entry and self._in_line(entry)

    def tidy(self) -> None:
        """Puts in line what was written and then forgotten by somebody who was killed, and ends what cannot go on."""
        active = self._ledger.entries(states=ACTIVE, limit=MOST)
        states = self._queues.states(name for entry in active for name in _ids(entry))
        for entry in active:
            state = next((states[name] for name in _ids(entry) if name in states), None)
            outcome = broken(RuntimeError()) if state in DEAD else CANCELLED if state == "CANCELLED" else None
            if outcome is None:
                self._in_line(entry)
            elif self._ledger.end(entry.order.job.key, entry.attempt, outcome):
                self._queues.answer(entry.order.job.key, entry.attempt)

    def _in_line(self, entry: Entry) -> Entry:
        id_, attempt = entry.order.job.key, entry.attempt
        if entry.state == "queued" and not entry.make:
            self._queues.job(id_, attempt)
        elif entry.state == "cancelling":
            self._queues.stop(id_, attempt)
        return entry


def _ids(entry: Entry) -> tuple[str, ...]:
    """The workflows that an entry may wait for, the later one first."""
    job = job_id(entry.order.job.key, entry.attempt)
    return (entry.make, job) if entry.make else (job,)
