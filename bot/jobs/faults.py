"""What databases raise, as the errors of the house: what passes by itself, what is full, what needs the operator."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

from bot.errors import HostError, InputError, MergeBotError
from bot.secret_text import masked

# https://www.sqlite.org/rescode.html: the lower byte is the kind.
SQLITE_PASSING = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL,
}  # fmt: skip
SQLITE_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# https://www.postgresql.org/docs/current/errcodes-appendix.html. psycopg gives no code where nobody answered.
POSTGRES_PASSING = ("08", "40001", "40P01", "53200", "53300", "55P03", "57P")
POSTGRES_FULL = ("53100", "54000")


def passes(error: DBAPIError) -> bool:
    """Whether trying again may help: somebody else writes, or the server is away."""
    if error.connection_invalidated:
        return True
    sqlite, postgres = _codes(error)
    if sqlite is not None:
        return sqlite in SQLITE_PASSING
    kind = type(error.orig).__name__
    return (
        postgres.startswith(POSTGRES_PASSING)
        if postgres
        else kind in {"OperationalError", "ConnectionTimeout"}
    )


def as_ours(error: DBAPIError, *, place: str) -> MergeBotError | None:
    """The error as one of the house's; None where it is a mistake of our own."""
    sqlite, postgres = _codes(error)
    said = masked(str(error.orig)).strip().partition("\n")[0]
    if sqlite == sqlite3.SQLITE_FULL or postgres.startswith(POSTGRES_FULL):
        advice = "Make room where the database lies; nothing that was confirmed is lost."
        return HostError(
            f"The disk of the database {place} is full: {said}.", advice=advice, code="database-full"
        )
    if sqlite in SQLITE_BROKEN:
        advice = "Check the path, or bring back a backup: merge-bot restore FILE --force."
        return InputError(f"{place} is no database of ours: {said}.", advice=advice, code="database-broken")
    if sqlite in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM} or postgres.startswith(("42501", "25006")):
        advice = "Give this user the right to write there."
        return InputError(
            f"The database {place} may not be written: {said}.", advice=advice, code="database-read-only"
        )
    if passes(error):
        advice = "Look whether it runs and can be reached; nothing that was confirmed is lost."
        return HostError(
            f"The database {place} does not answer: {said}.", advice=advice, code="database-gone"
        )
    return None


def _codes(error: DBAPIError) -> tuple[int | None, str]:
    """SQLite's kind of error, or PostgreSQL's SQLSTATE."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if isinstance(error.orig, sqlite3.Error):
        return (code or sqlite3.SQLITE_ERROR) & 0xFF, ""
    return None, getattr(error.orig, "sqlstate", None) or ""
