"""Backup and restore of the state, ours and DBOS's, while the service runs.

SQLite by its own online backup, PostgreSQL by its own programs: a backup is of one moment, and a restore happens
as a whole or not at all. One kind of database takes no backup of the other.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir, mkstemp

from sqlalchemy import Connection, func, inspect, select
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_random

from bot import settings
from bot.errors import HostError, InputError, RefusedError
from bot.jobs import migration
from bot.jobs.database import Database
from bot.jobs.tables import inbox, jobs
from bot.jobs.tables import settings as settings_table
from bot.secret_text import masked

SQLITE, POSTGRES = b"SQLite format 3\0", b"PGDMP"  # how the files begin
PATIENCE = 60.0  # seconds for others to let go of the database
FLAGS = ("--no-owner", "--no-privileges", "--no-password")
PSQL = (
    "--no-psqlrc",
    "--quiet",
    "--no-password",
    "--single-transaction",
    "--set=ON_ERROR_STOP=1",
    "--set=VERBOSITY=verbose",
)
# SQLSTATE: lock_not_available (https://www.postgresql.org/docs/current/errcodes-appendix.html), and one of ours.
LOCKED, NEWER = " 55P03: ", " MB001: "
# Shorter than deadlock_timeout (1 s unless it is set), so that it is the restore that gives way and never a writer.
# What this role does not own is not in a backup that it can restore.
ALONE = """
SET LOCAL lock_timeout = '500ms';
DO $$
DECLARE each regclass;
BEGIN
  FOR each IN
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')
      AND pg_has_role(c.relowner, 'USAGE')
  LOOP
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', each);
  END LOOP;
END $$;
"""
KNOWN = f"""
RESET search_path;
DO $$
DECLARE found int := value FROM merge_bot_settings WHERE name = 'schema';
BEGIN
  IF found > {migration.VERSION} THEN RAISE EXCEPTION '%', found USING ERRCODE = '{NEWER[1:6]}'; END IF;
END $$;
"""


def backup(database: Database, file: Path) -> int:
    """Writes the state into the file, which only its owner may read, and returns its size in bytes.

    An older file of that name is replaced once the new one is complete. Raises InputError where it cannot be written
    and (`no-pg-dump`) where PostgreSQL's programs are missing, HostError where the database fails.
    """
    save = _save_sqlite if database.is_sqlite else _save_postgres
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
    load = _load_sqlite if database.is_sqlite else _load_postgres
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
            raise _no_backup(broken or database.place, str(error)) from error
        advice = "Look whether its disk is full and whether somebody else holds it, and try again."
        sentence = f"The database {database.place} could not be copied: {error}."
        raise HostError(sentence, advice=advice, code="database-gone") from error


def _save_postgres(database: Database, partial: Path) -> None:
    _run(database, "pg_dump", "--format=custom", f"--file={partial}")


def _load_postgres(database: Database, file: Path) -> None:
    content = _call(database, "pg_restore", "--list", str(file))
    if content.returncode:
        raise _no_backup(file, _said(content))
    if f" {settings_table.name} " not in content.stdout:
        raise _no_backup(file, "it holds no state of this service")
    with TemporaryDirectory(prefix="merge-bot-restore-") as folder:
        script = Path(folder) / "restore.sql"
        done = _call(database, "pg_restore", *FLAGS, "--clean", "--if-exists", f"--file={script}", str(file))
        if done.returncode and not shutil.disk_usage(folder).free:
            sentence = f"There is no room in {gettempdir()} to unpack {file}."
            raise HostError(sentence, advice="Make room there, or set TMPDIR.", code="disk-full")
        if done.returncode:
            raise _no_backup(file, _said(done))
        _replay(database, script, of=file)


def _replay(database: Database, script: Path, *, of: Path) -> None:
    """The script in one transaction that has every table to itself from its start on.

    pg_restore alone takes them one by one while it drops them, and so ends up in a deadlock with whoever writes.
    """
    words = (*PSQL, _to(database), f"--command={ALONE}", f"--file={script}", f"--command={KNOWN}")
    attempts = Retrying(
        retry=retry_if_result(_is_locked),
        wait=wait_random(0.05, 0.25),
        stop=stop_after_delay(PATIENCE),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    done = attempts(_call, database, "psql", *words)
    if _is_locked(done):
        sentence = f"In {PATIENCE:.0f} seconds there was no moment in which nobody used {database.place}."
        advice = "Stop the server and its workers, or the long query of somebody else, and restore again."
        raise HostError(sentence, advice=advice, code="database-busy")
    if done.returncode and NEWER in done.stderr:
        migration.check(int(done.stderr.partition(NEWER)[2].split()[0]), place=str(of))
    _checked(database, "psql", done)


def _is_locked(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode != 0 and LOCKED in done.stderr


def _run(database: Database, name: str, *arguments: str) -> None:
    _checked(database, name, _call(database, name, *FLAGS, _to(database), *arguments))


def _to(database: Database) -> str:
    url = database.url.set(drivername="postgresql", password=None).render_as_string()
    return f"--dbname={url}"


def _call(database: Database, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One of PostgreSQL's programs. The password is no argument, which everybody on the machine could read."""
    program = shutil.which(name)
    if program is None:
        raise InputError(
            f"{name} is not installed, which backups of PostgreSQL are made with.",
            advice="Install postgresql-client, or run pg_dump and pg_restore where the server runs.",
            code="no-pg-dump",
        )
    environment = {**settings.environment(), "PGPASSWORD": database.url.password or ""}
    command = [program, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - ours


def _checked(database: Database, name: str, done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        advice = "Look whether the server runs and is no newer than the program, and try again."
        sentence = f"{name} failed on {database.place}: {_said(done)}"
        raise HostError(sentence, advice=advice, code="database-gone")


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return next(iter(masked(done.stderr).strip().splitlines()), f"it ended with {done.returncode}")


def _check_begins(file: Path, magic: bytes, database: Database) -> None:
    try:
        with file.open("rb") as opened:
            begins = opened.read(len(SQLITE))
    except OSError as error:
        raise _no_backup(file, error.strerror or str(error)) from error
    if not begins.startswith(magic):
        other = {SQLITE: POSTGRES, POSTGRES: SQLITE}[magic]
        kinds = {SQLITE: "SQLite", POSTGRES: "PostgreSQL"}
        said = (
            f"it is of {kinds[other]}, and {database.place} is not"
            if begins.startswith(other)
            else "unknown format"
        )
        raise _no_backup(file, said)


def _no_backup(file: object, said: str) -> InputError:
    advice = "Name a file that merge-bot backup has made of the same kind of database."
    return InputError(
        f"{file} is no backup that can be restored here: {said}.", advice=advice, code="no-backup"
    )


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
