"""Backup and restore of the state, ours and DBOS's, while the service runs.

SQLite by its own online backup, PostgreSQL by its own programs: a backup is of one moment, and a restore happens
as a whole or not at all. One kind of database takes no backup of the other.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp

from sqlalchemy import Connection, func, inspect, select

from bot.errors import HostError, InputError, RefusedError
from bot.jobs import backup_postgres, migration
from bot.jobs.backup_postgres import no_backup
from bot.jobs.database import Database
from bot.jobs.tables import inbox, jobs

SQLITE, POSTGRES = b"SQLite format 3\0", b"PGDMP"  # how the files begin
PATIENCE = 60.0  # seconds for others to let go of the database


def backup(database: Database, file: Path) -> int:
    """Writes the state into the file, which only its owner may read, and returns its size in bytes.

    An older file of that name is replaced once the new one is complete. Raises InputError where it cannot be written
    and (`no-pg-dump`) where PostgreSQL's programs are missing, HostError where the database fails.
    """
    save = _save_sqlite if database.is_sqlite else backup_postgres.save
    with _complete(file) as partial:
        save(database, partial)
    return file.stat().st_size


def restore(database: Database, file: Path, *, force: bool) -> None:
    """Puts the state of the file in place of the database's.

    Raises RefusedError (`database-not-empty`) without `force` where the database holds jobs or deliveries already, and
    InputError for a file that is no backup, or one of another kind of database or a newer version.
    """
    _check_begins(file, SQLITE if database.is_sqlite else POSTGRES, database)
    if not force and not database.read(_is_empty):
        raise RefusedError(
            f"The database {database.place} holds jobs already.",
            advice="Add --force to have the backup in their place.",
            code="database-not-empty",
        )
    load = _load_sqlite if database.is_sqlite else backup_postgres.load
    load(database, file)
    migration.opened(database.url.render_as_string(hide_password=False)).close()


def _is_empty(connection: Connection) -> bool:
    there = set(inspect(connection).get_table_names())
    counted = [
        connection.scalar(select(func.count()).select_from(t)) for t in (jobs, inbox) if t.name in there
    ]
    return not any(counted)


def _save_sqlite(database: Database, partial: Path) -> None:
    with _sqlite(database), closing(_connect(database.file)) as source, closing(_connect(partial)) as copy:
        source.backup(copy)  # in one go: in steps, it would begin again with each commit of others
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, and nothing beside it


def _load_sqlite(database: Database, file: Path) -> None:
    with _sqlite(database, broken=file), closing(_connect(file, mode="ro")) as copy:
        problem = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        found = copy.execute("SELECT value FROM merge_bot_settings WHERE name = 'schema'").fetchone()
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        migration.check(int(found[0]), place=str(file))
        with closing(_connect(database.file)) as target:
            copy.backup(target)
            target.execute("PRAGMA journal_mode = WAL")


def _connect(file: Path | None, *, mode: str = "rwc") -> sqlite3.Connection:
    uri = f"{Path(str(file)).resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def _sqlite(database: Database, broken: Path | None = None) -> Iterator[None]:
    """What SQLite says, as an error of ours; `broken` is the file that is being read, if one is."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if (broken and not isinstance(error, sqlite3.OperationalError)) or "no such table" in str(error):
            raise no_backup(broken or database.place, str(error)) from error
        advice = "Look whether its disk is full and whether somebody else holds it, and try again."
        sentence = f"The database {database.place} could not be copied: {error}."
        raise HostError(sentence, advice=advice, code="database-gone") from error


def _check_begins(file: Path, magic: bytes, database: Database) -> None:
    try:
        with file.open("rb") as opened:
            begins = opened.read(len(SQLITE))
    except OSError as error:
        raise no_backup(file, error.strerror or str(error)) from error
    if not begins.startswith(magic):
        other = {SQLITE: POSTGRES, POSTGRES: SQLITE}[magic]
        kinds = {SQLITE: "SQLite", POSTGRES: "PostgreSQL"}
        said = (
            f"it is of {kinds[other]}, and {database.place} is not"
            if begins.startswith(other)
            else "unknown format"
        )
        raise no_backup(file, said)


@contextmanager
def _complete(file: Path) -> Iterator[Path]:
    """A file beside it, which gets its name when all went well."""
    try:
        handle, name = mkstemp(prefix=f".{file.name}.", dir=file.parent)
        os.close(handle)
    except OSError as error:
        advice = "Name a file in a folder that this user may write to."
        raise InputError(
            f"{file} cannot be written: {error.strerror}.", advice=advice, code="bad-output"
        ) from error
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
