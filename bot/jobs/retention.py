"""What is old goes: logs first, then whole jobs, and the deliveries that nobody will send again.

The attempts at a job that is gone are counted from 1 again: what DBOS keeps of its workflows has to go before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Delete, delete, select

from bot.jobs.database import Database
from bot.jobs.reading import DAY
from bot.jobs.tables import inbox, jobs, lines, makes

BATCH = 200  # rows of one transaction: nobody waits for long
DELIVERIES = 30.0  # days in which a host may deliver once more


@dataclass(frozen=True, kw_only=True)
class Swept:
    """How many lines of logs went, how many jobs, makes and deliveries."""

    lines: int
    jobs: int
    makes: int
    deliveries: int


def sweep(database: Database, *, log_days: float, job_days: float) -> Swept:
    """Removes what ended longer ago than that. What goes on stays, and so does what is not finished."""
    before = database.now() - job_days * DAY
    return Swept(
        lines=_logs(database, database.now() - log_days * DAY),
        jobs=_batches(database, jobs.c.id, jobs.c.ended < before),
        makes=_batches(database, makes.c.id, makes.c.ended < before),
        deliveries=_batches(database, inbox.c.number, inbox.c.finished < database.now() - DELIVERIES * DAY),
    )


def _logs(database: Database, before: ColumnElement[float]) -> int:
    """A job's numbers go on, so that nobody who follows its log is led astray."""
    has_lines = select(lines.c.job).where(lines.c.job == jobs.c.id).exists()
    asked = select(jobs.c.id).where(jobs.c.ended < before, has_lines)
    old = database.read(lambda connection: list(connection.scalars(asked)))
    return sum(_removed(database, delete(lines).where(lines.c.job == id_)) for id_ in old)


def _batches(database: Database, key: ColumnElement[Any], old: ColumnElement[bool]) -> int:
    batch = select(key).where(old).limit(BATCH)
    asked, total = delete(key.table).where(key.in_(batch)), 0
    while removed := _removed(database, asked):
        total += removed
    return total


def _removed(database: Database, asked: Delete) -> int:
    return database.write(lambda connection: int(connection.execute(asked).rowcount))
