"""The desk of the service: what doors, pages and commands ask for is put into the ledger, and in line."""

from __future__ import annotations

from bot.doors.work import broken
from bot.jobs.clock import passed
from bot.jobs.closing import CANCELLED
from bot.jobs.database import Database
from bot.jobs.ledger import Ledger
from bot.jobs.order import ACTIVE, Entry, Order
from bot.jobs.queues import DEAD, Queues, answer_id, job_id

MOST = 100_000  # jobs that are looked through at once
REMINDS = 60.0  # seconds between two looks for answers that were left out
LATELY = 3600.0  # seconds in which an end may still lack its answer


class Office(Ledger):
    """Implements `bot.jobs.desk.Desk`. Who is killed between the two leaves the second to `tidy`."""

    def __init__(self, database: Database, queues: Queues) -> None:
        super().__init__(database)
        self._queues = queues
        self._reminded: float | None = None

    def enqueue(self, order: Order) -> Entry:
        return self._in_line(super().enqueue(order))

    def cancel(self, id_: str, *, by: str, attempt: int | None = None) -> Entry | None:
        entry = super().cancel(id_, by=by, attempt=attempt)
        return entry and self._in_line(entry)

    def retry(self, id_: str, *, by: str) -> Entry | None:
        entry = super().retry(id_, by=by)
        return entry and self._in_line(entry)

    def tidy(self) -> None:
        """Puts in line what was written and then left by somebody who was killed, and ends what cannot go on."""
        active = self.entries(states=ACTIVE, limit=MOST)
        states = self._queues.states(name for entry in active for name in _ids(entry))
        for entry in active:
            state = next((states[name] for name in _ids(entry) if name in states), None)
            outcome = broken(RuntimeError()) if state in DEAD else CANCELLED if state == "CANCELLED" else None
            if outcome is None:
                if state is None or entry.state == "cancelling":
                    self._in_line(entry)
            else:
                if states.get(entry.make) == state:  # else whoever asks again would wait for what is dead
                    self.close(entry.make)
                    self._queues.cancel_shards(entry.make)
                if self.end(entry.order.job.key, entry.attempt, outcome):
                    self._queues.answer(entry.order.job.key, entry.attempt)
            if states.get(entry.make) == "SUCCESS":
                self._left_out(entry)

    def remind(self) -> None:
        """Puts answers in line that whoever wrote an end was killed before."""
        if self._reminded is not None and passed() - self._reminded < REMINDS:
            return
        ended = self.ended(seconds=LATELY)
        there = self._queues.states(answer_id(*each) for each in ended)
        for each in ended:
            if answer_id(*each) not in there:
                self._queues.answer(*each)
        self._reminded = passed()

    def _left_out(self, entry: Entry) -> None:
        """Joined a make that then ended without it; looked at anew, for `entry` may be older than that end."""
        fresh = self.entry(entry.order.job.key)
        if fresh is None or fresh.make != entry.make:
            return
        self.close(entry.make)
        again = self.anew(fresh)
        if again is not None:
            self._in_line(again)

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
