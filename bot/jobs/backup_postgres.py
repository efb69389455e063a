"""Backup and restore of a PostgreSQL database by its own programs: pg_dump, pg_restore and psql."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_random

from bot import settings
from bot.errors import HostError, InputError
from bot.jobs import migration
from bot.jobs.database import Database
from bot.jobs.tables import settings as settings_table
from bot.secret_text import masked

PATIENCE = 60.0  # seconds for a moment in which nobody uses the tables
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


def no_backup(file: object, said: str) -> InputError:
    """The error for a file that no database here can be restored from."""
    advice = "Name a file that merge-bot backup has made of the same kind of database."
    return InputError(
        f"{file} is no backup that can be restored here: {said}.", advice=advice, code="no-backup"
    )


def save(database: Database, partial: Path) -> None:
    """Writes the database into the file, as it is at one moment. Raises what `bot.jobs.backup.backup` does."""
    _run(database, "pg_dump", "--format=custom", f"--file={partial}")


def load(database: Database, file: Path) -> None:
    """Puts the file's state in place of the database's, as a whole or not at all, while others use it.

    Raises InputError (`no-backup`, `no-pg-dump`, `database-newer`) and HostError (`database-busy` where nobody lets go
    of the tables for `PATIENCE` seconds, `database-gone`, `disk-full`).
    """
    content = _call(database, "pg_restore", "--list", str(file))
    if content.returncode:
        raise no_backup(file, _said(content))
    if f" {settings_table.name} " not in content.stdout:
        raise no_backup(file, "it holds no state of this service")
    with TemporaryDirectory(prefix="merge-bot-restore-") as folder:
        script = Path(folder) / "restore.sql"
        done = _call(database, "pg_restore", *FLAGS, "--clean", "--if-exists", f"--file={script}", str(file))
        if done.returncode and not shutil.disk_usage(folder).free:
            sentence = f"There is no room in {gettempdir()} to unpack {file}."
            raise HostError(sentence, advice="Make room there, or set TMPDIR.", code="disk-full")
        if done.returncode:
            raise no_backup(file, _said(done))
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
