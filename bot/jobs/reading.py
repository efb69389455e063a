"""What is known of the jobs: one of them, lists, logs, counts, and what somebody has used up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import ColumnElement, Connection, Select, Text, func, literal, select

from bot.errors import InputError
from bot.jobs import rows
from bot.jobs.database import Database
from bot.jobs.order import Entry, Line, State
from bot.jobs.tables import jobs, lines, orders, outcomes

SHORTEST = 8  # digits of an id
DAY = 86_400.0
_FULL = outcomes.c.details
_SHORT = literal("", Text)


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What somebody asked for within a time: jobs, and bytes of the models that they made."""

    jobs: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Queue:
    """What waits for a runner (empty: it is not chosen yet), and for how many seconds the oldest has."""

    runner: str
    depth: int
    age: float


class Reader:
    """The reads. They raise HostError (`database-gone`) while the database cannot be reached."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def entry(self, id_: str) -> Entry | None:
        return self._database.read(lambda connection: self._entry(connection, id_))

    def entries(  # as the protocol has it
        self,
        *,
        states: frozenset[State] = frozenset(),
        text: str = "",
        before: float | None = None,
        limit: int = 50,
    ) -> tuple[Entry, ...]:
        conditions: list[ColumnElement[bool]] = [jobs.c.state.in_(states)] if states else []
        if text:
            find = func.instr if self._database.is_sqlite else func.strpos  # LIKE is slower in both
            conditions.append(find(jobs.c.search, rows.plain(text.lower())) > 0)
        if before is not None:
            conditions.append(jobs.c.created < before)
        newest = select(jobs.c.id).where(*conditions).order_by(jobs.c.created.desc()).limit(limit)
        # Chosen first, and joined then: SQLite would join everything that it has to sort.
        asked = _jobs(_SHORT).where(jobs.c.id.in_(newest.scalar_subquery())).order_by(jobs.c.created.desc())
        found = self._database.read(lambda connection: connection.execute(asked).all())
        return tuple(rows.entry(row) for row in found)

    def lines(self, id_: str, *, after: int = 0, limit: int = 1000) -> tuple[Line, ...]:
        def work(connection: Connection) -> Any:
            kept = select(lines).where(lines.c.job == self._id(connection, id_), lines.c.number > after)
            return connection.execute(kept.order_by(lines.c.number).limit(limit)).all()

        return tuple(Line(number=row.number, at=row.at, text=row.text) for row in self._database.read(work))

    def counts(self) -> Mapping[State, int]:
        asked = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        found = {row[0]: row[1] for row in self._database.read(lambda c: c.execute(asked).all())}
        return {state: found.get(state, 0) for state in get_args(State)}

    def queues(self) -> tuple[Queue, ...]:
        """What waits, by runner."""
        age = self._database.now() - func.min(jobs.c.created)
        asked = (
            select(jobs.c.runner, func.count(), age).where(jobs.c.state == "queued").group_by(jobs.c.runner)
        )
        found = self._database.read(lambda connection: connection.execute(asked).all())
        return tuple(Queue(runner=name, depth=count, age=max(0.0, age)) for name, count, age in found)

    def used(self, requester: str, *, seconds: float = DAY) -> Usage:
        """What `rows.requester` asked for in the last seconds, whatever became of it."""
        mine = jobs.c.requester == requester, jobs.c.created > self._database.now() - seconds
        asked = select(func.count(), func.coalesce(func.sum(jobs.c.bytes), 0)).where(*mine)
        count, size = self._database.read(lambda connection: connection.execute(asked).one())
        return Usage(jobs=count, bytes=int(size))

    def waiting(self, make: str) -> tuple[Entry, ...]:
        """The jobs that wait for this make, the first to ask first."""
        conditions = jobs.c.make == make, jobs.c.state.in_(["queued", "running"])
        asked = _jobs(_SHORT).where(*conditions).order_by(jobs.c.created)
        found = self._database.read(lambda connection: connection.execute(asked).all())
        return tuple(rows.entry(row) for row in found)

    def joined(self, make: str) -> tuple[Entry, ...]:
        """Every job that waited for this make, whatever became of it, the first to ask first."""
        asked = _jobs(_SHORT).where(jobs.c.make == make).order_by(jobs.c.created)
        found = self._database.read(lambda connection: connection.execute(asked).all())
        return tuple(rows.entry(row) for row in found)

    def _entry(self, connection: Connection, id_: str) -> Entry | None:
        row = connection.execute(_jobs(_FULL).where(jobs.c.id == self._id(connection, id_))).one_or_none()
        return None if row is None else rows.entry(row)

    @staticmethod
    def _id(connection: Connection, id_: str) -> str | None:
        """The whole id. Raises InputError where several begin so."""
        if len(id_) < SHORTEST:
            return id_
        next_ = id_[:-1] + chr(ord(id_[-1]) + 1)
        begin_so = select(jobs.c.id).where(jobs.c.id >= id_, jobs.c.id < next_).order_by(jobs.c.id).limit(2)
        found = list(connection.scalars(begin_so))
        if len(found) > 1 and found[0] != id_:
            raise InputError(
                f"Several jobs begin with {id_}.", advice="Write more of the id.", code="ambiguous-id"
            )
        return found[0] if found else None


def _jobs(details: ColumnElement[str]) -> Select[Any]:
    joined = jobs.join(orders).outerjoin(outcomes, outcomes.c.job == jobs.c.id)
    columns = [column for column in jobs.c if column.name != "search"]
    order = orders.c.document.label("order")
    return select(
        *columns, order, outcomes.c.document.label("outcome"), details.label("details")
    ).select_from(joined)
