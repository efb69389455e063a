"""Brings a database to the tables of this version, step by step; one of a newer version is left alone."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, inspect, select, text

from bot.errors import InputError
from bot.jobs.database import Database, touch
from bot.jobs.tables import metadata, settings

LOCK = 0x6D626F74  # "mbot": of PostgreSQL's advisory locks, so that two servers do not migrate at once
# STEPS[n] leads from version n to n + 1. A step is never changed once it was released: another follows it.
STEPS: tuple[Callable[[Connection], None], ...] = (metadata.create_all,)
VERSION = len(STEPS)


def opened(url: str, *, create: bool = True, patience: float | None = None) -> Database:
    """The database, with the tables of this version.

    Raises InputError (`no-database`) where there is none and none is to be made, and (`database-newer`) where a newer
    version has been at work; else as `Database`.
    """
    database = Database(url) if patience is None else Database(url, patience=patience)
    if database.file and not database.file.exists():
        if not create:
            raise _absent(database)
        touch(database.file)
    found = database.read(version)
    if found < VERSION:
        if not (create or found):
            raise _absent(database)
        database.write(lambda connection: _migrate(connection, place=database.place))
    check(found, place=database.place)
    return database


def version(connection: Connection) -> int:
    """Of the tables that are there; 0 where there are none."""
    if not inspect(connection).has_table(settings.name):
        return 0
    found = connection.scalar(select(settings.c.value).where(settings.c.name == "schema"))
    return int(found or 0)


def _migrate(connection: Connection, *, place: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    found = version(connection)  # another may have been quicker
    check(found, place=place)
    for step in STEPS[found:]:
        step(connection)
    connection.execute(settings.delete().where(settings.c.name == "schema"))
    connection.execute(settings.insert().values(name="schema", value=str(VERSION)))


def check(found: int, *, place: str) -> None:
    """Raises InputError (`database-newer`)."""
    if found > VERSION:
        raise InputError(
            f"The database {place} is of a newer merge-bot: its tables have version {found}, this one knows {VERSION}.",
            advice="Upgrade merge-bot here, or bring back a backup from before the upgrade.",
            code="database-newer",
        )


def _absent(database: Database) -> InputError:
    return InputError(
        f"There is no state of a service in the database {database.place}.",
        advice="Start merge-bot serve, or set MERGE_BOT_DATABASE_URL to the database of one that runs.",
        code="no-database",
    )
