"""What `merge-bot watch` has seen of the Hub, in the database."""

from __future__ import annotations

from sqlalchemy import select

from bot.jobs.database import Database
from bot.jobs.tables import seen


class Memory:
    """Both raise HostError (`database-gone`) while the database cannot be reached."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, kind: str, name: str) -> str | None:
        """What was put there last; None: nothing was."""
        asked = select(seen.c.value).where(seen.c.kind == kind, seen.c.name == name)
        found: str | None = self._database.read(lambda connection: connection.scalar(asked))
        return found

    def put(self, kind: str, name: str, value: str) -> None:
        """It is kept once this returns."""
        new = {"value": value, "at": self._database.now()}
        insert = self._database.insert(seen).values(kind=kind, name=name, **new)
        put = insert.on_conflict_do_update(index_elements=[seen.c.kind, seen.c.name], set_=new)
        self._database.write(lambda connection: connection.execute(put))
