"""Which executors live. Each counts up in its row; whoever looks on sees whether it still does.

No clock is asked: one that is set forward by an hour would make everybody look dead, and their jobs would be taken.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update

from bot.jobs.database import Database
from bot.jobs.tables import workers

TAKEN = 1_000_000  # beats


@dataclass(frozen=True, kw_only=True)
class Worker:
    """An executor as it was last heard of: `at` in seconds since 1970 by the database's clock."""

    executor: str
    beat: int
    at: float


class Workers:
    """The rows of the executors, and what this process has seen of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[
            str, tuple[int, float]
        ] = {}  # its beat, and when it was new here by the monotonic clock

    def beat(self, executor: str) -> int:
        """It lives. The answer is its beat: not above the last one, or far above it, where somebody has `take`n it."""

        def work(connection: Connection) -> int:
            new = self._database.insert(workers).values(executor=executor, beat=1, at=self._database.now())
            again = {"beat": workers.c.beat + 1, "at": self._database.now()}
            said = new.on_conflict_do_update(index_elements=[workers.c.executor], set_=again)
            return int(connection.execute(said.returning(workers.c.beat)).scalar_one())

        return self._database.write(work)

    def take(self, executor: str) -> bool:
        """One that is `gone` is told so by its own row, should it come back. False: it lives, or another took it."""

        def work(connection: Connection) -> bool:
            beat = self._seen[executor][0]
            this = workers.c.executor == executor, workers.c.beat == beat
            return bool(connection.execute(update(workers).where(*this).values(beat=beat + TAKEN)).rowcount)

        return self._database.write(work)

    def leave(self, executor: str) -> None:
        """It has stopped, and what it left was taken over."""
        self._database.write(lambda c: c.execute(delete(workers).where(workers.c.executor == executor)))
        self._seen.pop(executor, None)

    def all(self) -> tuple[Worker, ...]:
        """Who has not left."""
        found = self._database.read(lambda c: c.execute(select(workers).order_by(workers.c.executor)).all())
        return tuple(Worker(executor=row.executor, beat=row.beat, at=row.at) for row in found)

    def forget(self) -> None:
        """As if nobody had been seen yet: who looks on was away, and does not know who stood still."""
        self._seen.clear()

    def gone(self, *, seconds: float) -> tuple[str, ...]:
        """Those whose beat has stood still for that long under our eyes."""
        there, now = self.all(), time.monotonic()
        for worker in there:
            if self._seen.get(worker.executor, (None,))[0] != worker.beat:
                self._seen[worker.executor] = worker.beat, now
        return tuple(w.executor for w in there if now - self._seen[w.executor][1] >= seconds)
