"""The jobs of the service: every write may be repeated, and one that comes too late changes nothing.

What is done for a job is not decided here; a late write of an older attempt finds another number in the row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, case, delete, func, insert, select, update

from bot.errors import InternalError
from bot.job import Now, Outcome
from bot.jobs import rows
from bot.jobs.order import ACTIVE, Entry, Order, understood
from bot.jobs.reading import Reader
from bot.jobs.tables import attempts, jobs, lines, makes, orders, outcomes

MOST_LINES = 5000  # of a job: the newest stay
LONGEST = 4000  # characters of a line
_NEW = {
    "state": "queued", "stage": "queued", "done": 0, "total": 0, "make": "", "runner": "", "worker": "", "bytes": 0,
    "started": None, "ended": None,
}  # fmt: skip


class Ledger(Reader):
    """Reads and writes of jobs. All raise HostError (`database-gone`) while the database cannot be reached."""

    def enqueue(self, order: Order) -> Entry:
        """The job, queued. One that goes on stays as it is, one that has ended is queued as its next attempt.

        But for one of the same `run`: that is what was delivered, decided a second time, and no new wish.
        """
        return self._database.write(lambda connection: self._enqueue(connection, order))

    def begin(self, id_: str, attempt: int, *, worker: str) -> bool:
        """It is worked on, by this executor from now on. False: it is over or called off."""
        now = func.coalesce(jobs.c.started, self._database.now())
        changes = {"state": "running", "started": now, "worker": worker}
        return self._change(id_, attempt, changes, states=("queued", "running"))

    def assign(self, id_: str, attempt: int, *, runner: str, size: int) -> bool:
        """Where it will be merged, and how many bytes its model will have. False: it is over."""

        def work(connection: Connection) -> bool:
            if not _changed(connection, id_, attempt, {"runner": runner, "bytes": size}):
                return False
            this = attempts.c.job == id_, attempts.c.attempt == attempt
            first = func.coalesce(attempts.c.sized, self._database.now())
            connection.execute(update(attempts).where(*this).values(bytes=size, sized=first))
            return True

        return self._database.write(work)

    def tell(self, id_: str, attempt: int, now: Now) -> bool:
        """How far it is; `Teller` keeps this rare. False: it is over."""
        changes: dict[str, Any] = {"stage": now.stage, "done": now.done, "total": now.total}
        if (
            now.stage != "publishing"
        ):  # there is no way back from it: what is told then was true a moment earlier
            stays = jobs.c.stage == "publishing"
            changes = {name: case((stays, jobs.c[name]), else_=value) for name, value in changes.items()}
        return self._change(id_, attempt, changes)

    def publish(self, id_: str, attempt: int, *, held: Callable[[Connection], None] | None = None) -> bool:
        """From here on it is not called off any more. False: it was before, or is over.

        `held` is asked in the same transaction, and what it raises stops that.
        """
        changes = {"stage": "publishing", "done": 0, "total": 0}

        def work(connection: Connection) -> bool:
            if held is not None:
                held(connection)
            return _changed(connection, id_, attempt, changes, states=("queued", "running"))

        return self._database.write(work)

    def hold(self, held: Callable[[Connection], None]) -> None:
        """Asks that in a transaction of its own."""
        self._database.write(held)

    def end(self, id_: str, attempt: int, outcome: Outcome) -> bool:
        """How it ended. False: it had ended already in another way, or is at another attempt."""

        def work(connection: Connection) -> bool:
            changes = {"state": outcome.ended, "ended": self._database.now()}
            if _changed(connection, id_, attempt, changes):
                document, details = rows.document(outcome), rows.details(outcome)
                connection.execute(insert(outcomes).values(job=id_, document=document, details=details))
                return True
            found = connection.execute(select(jobs.c.attempt, jobs.c.state).where(jobs.c.id == id_)).first()
            return found is not None and tuple(found) == (attempt, outcome.ended)

        return self._database.write(work)

    def cancel(self, id_: str, *, by: str, attempt: int | None = None) -> Entry | None:
        """It is to be called off: `cancelling`, which ends when whoever works on it has let go.

        `attempt`: that one and no later one.
        """

        def work(connection: Connection) -> Entry | None:
            found = self._entry(connection, id_)
            if found is None or found.state not in {"queued", "running"}:
                return found
            if attempt not in {None, found.attempt}:
                return found
            key = found.order.job.key
            _changed(connection, key, found.attempt, {"state": "cancelling"})
            self._write(connection, key, [f"Cancelled by {by}."])
            return self._entry(connection, key)

        return self._database.write(work)

    def retry(self, id_: str, *, by: str) -> Entry | None:
        """An ended job is queued as its next attempt. Raises InputError (`unreadable-job`)."""

        def work(connection: Connection) -> Entry | None:
            found = self._entry(connection, id_)
            if found is None or found.state in ACTIVE:
                return found
            self._write(connection, found.order.job.key, [f"Begun anew by {by}."])
            return self._enqueue(connection, understood(found), anew=True)

        return self._database.write(work)

    def anew(self, entry: Entry) -> Entry | None:
        """Its make has ended and left it out: it is queued as its next attempt. None: that was a moment ago."""
        id_ = entry.order.job.key

        def work(connection: Connection) -> Entry | None:
            this = jobs.c.id == id_, jobs.c.attempt == entry.attempt, jobs.c.make == entry.make
            waits = jobs.c.state.in_(["queued", "running"])
            new = _NEW | {"attempt": entry.attempt + 1}
            if not connection.execute(update(jobs).where(*this, waits).values(new)).rowcount:
                return None
            return self._entry(connection, id_)

        return self._database.write(work)

    def write(self, id_: str, texts: Sequence[str]) -> None:
        """Lines for the log of a job, without tokens; nothing where there is no such job."""
        if texts:
            self._database.write(lambda connection: self._write(connection, id_, texts))

    def join(self, id_: str, attempt: int, make: str) -> str:
        """The job waits for a make: the one that goes on, else a new attempt at it. Its id is `make-attempt`."""
        return self._database.write(lambda connection: self._join(connection, id_, attempt, make))

    def close(self, make: str) -> tuple[Entry, ...]:
        """Nobody can join this attempt at a make (`make-attempt`) any more; who waits for it."""
        name, _, attempt = make.rpartition("-")
        this = makes.c.id == name, makes.c.attempt == int(attempt), makes.c.ended.is_(None)
        ended = update(makes).where(*this).values(ended=self._database.now())
        self._database.write(lambda connection: connection.execute(ended))
        return self.waiting(make)

    def _enqueue(self, connection: Connection, order: Order, *, anew: bool = False) -> Entry:
        of_order, id_ = rows.of_order(order), order.job.key
        if order.job.run and not anew:
            found = self._entry(connection, id_)
            if found is not None and found.order.job.run == order.job.run:
                return found
        new: dict[str, Any] = _NEW | of_order | {"created": self._database.now(), "attempt": 1}
        begun = self._database.insert(jobs).values(new).on_conflict_do_nothing().returning(jobs.c.id)
        if connection.scalar(begun) is None:
            again = new | {"attempt": jobs.c.attempt + 1}
            ended = update(jobs).where(jobs.c.id == id_, jobs.c.state.not_in(ACTIVE)).values(again)
            if not connection.execute(ended).rowcount:
                return self._known(connection, id_)
        for table in (outcomes, orders):
            connection.execute(delete(table).where(table.c.job == id_))
        connection.execute(insert(orders).values(job=id_, document=rows.document(order)))
        made = self._known(connection, id_)
        counts = {"job": id_, "attempt": made.attempt, "requester": of_order["requester"], "at": made.created}
        connection.execute(insert(attempts).values(counts))
        return made

    def _known(self, connection: Connection, id_: str) -> Entry:
        found = self._entry(connection, id_)
        if found is None:
            advice = "Please report this."
            raise InternalError(f"The job {id_} was not written.", advice=advice, code="lost-job")
        return found

    def _change(
        self, id_: str, attempt: int, changes: dict[str, Any], *, states: Sequence[str] = tuple(ACTIVE)
    ) -> bool:
        return self._database.write(lambda c: _changed(c, id_, attempt, changes, states=states))

    def _write(self, connection: Connection, id_: str, texts: Sequence[str]) -> None:
        newest = jobs.c.newest_line
        counted = (
            update(jobs).where(jobs.c.id == id_).values(newest_line=newest + len(texts)).returning(newest)
        )
        last = connection.scalar(counted)
        if last is None:
            return
        at = connection.scalar(select(self._database.now()))
        numbered = enumerate(texts, start=last - len(texts) + 1)
        new = [
            {"job": id_, "number": n, "at": at, "text": rows.plain(text)[:LONGEST]} for n, text in numbered
        ]
        connection.execute(insert(lines), new[-MOST_LINES:])
        connection.execute(delete(lines).where(lines.c.job == id_, lines.c.number <= last - MOST_LINES))

    def _join(self, connection: Connection, id_: str, attempt: int, make: str) -> str:
        new = {"id": make, "attempt": 1, "created": self._database.now(), "ended": None}
        begun = self._database.insert(makes).values(new).on_conflict_do_nothing()
        connection.execute(begun)
        asked = select(makes.c.attempt, makes.c.ended).where(makes.c.id == make).with_for_update()
        number, ended = connection.execute(asked).one()
        known = connection.scalar(select(jobs.c.make).where(jobs.c.id == id_, jobs.c.attempt == attempt))
        if known:  # said before, and perhaps ended since
            return str(known)
        if ended is not None:
            number += 1
            again = update(makes).where(makes.c.id == make)
            connection.execute(again.values(attempt=number, created=self._database.now(), ended=None))
        _changed(connection, id_, attempt, {"make": f"{make}-{number}"})
        return f"{make}-{number}"


def _changed(
    connection: Connection,
    id_: str,
    attempt: int,
    changes: dict[str, Any],
    *,
    states: Sequence[str] = tuple(ACTIVE),
) -> bool:
    this = jobs.c.id == id_, jobs.c.attempt == attempt, jobs.c.state.in_(states)
    return bool(connection.execute(update(jobs).where(*this).values(changes)).rowcount)
