"""What `merge-bot watch` has seen of the Hub, in the database, and what webhooks have brought in since."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import select

from bot.jobs.database import Database
from bot.jobs.tables import seen

MODEL, OWNER = "model", "owner"


class Memory:
    """All raise HostError (`database-gone`) while the database cannot be reached."""

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

    def pushed(self, name: str, *, before: str | None, commit: str, was_empty: Callable[[], bool]) -> None:
        """A webhook's push to a model is seen to, so that no look takes it up again at a later commit.

        Where pushes before it may have been missed, it is not remembered: a look finds those. `was_empty`: whether
        `before` held no adapter.
        """
        if before is None or self.get(MODEL, name) == before or was_empty():
            self.put(MODEL, name, commit)
