"""One URL → the database that holds the service's state, SQLite or PostgreSQL: transactions that wait out what passes.

Durable: what `write` returned from is on the disk. What the tables hold is in `bot.jobs.tables`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Engine,
    Table,
    cast,
    create_engine,
    event,
    extract,
    func,
    literal,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential, wait_random

from bot.errors import HostError, InputError
from bot.jobs import faults

T = TypeVar("T")
PATIENCE = 60.0  # seconds that a database may be locked or away
BUSY = 5.0  # seconds of it that SQLite waits for a lock by itself, which is quicker to notice
MOST = 20  # connections beside the five that are kept
WRITES = "merge_bot_writes"
# FULL: a commit is on the disk when it returns, also in WAL mode. https://www.sqlite.org/pragma.html#pragma_synchronous
PRAGMAS = (
    f"busy_timeout = {BUSY * 1000:.0f}",
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "cache_size = -16000",  # kB
)
# A server that vanishes without a word is noticed within seconds and not within hours.
POSTGRES = {"connect_timeout": 10, "tcp_user_timeout": 20_000, "application_name": "merge-bot"}


class Database:
    """An engine and how it is spoken to. Threads may share one; a fork may not.

    Every method raises HostError (`database-gone`, `database-full`) and, where the operator has to do something,
    InputError (`database-broken`, `database-read-only`).
    """

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        """Raises InputError for a URL that is none of ours. Nothing is opened yet."""
        self.url = parsed(url)
        self.patience = patience
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.file = Path(str(self.url.database)) if self.is_sqlite else None
        self.place = str(self.file) if self.file else self.url.render_as_string(hide_password=True)
        self.engine = _sqlite(self.url) if self.is_sqlite else _postgres(self.url)

    def read(self, work: Callable[[Connection], T], *, patience: float | None = None) -> T:
        """What `work` finds in one transaction; it may be called again."""
        return self._transact(work, self.engine, self.patience if patience is None else patience)

    def write(self, work: Callable[[Connection], T], *, patience: float | None = None) -> T:
        """What `work` returns once its changes are durable.

        It is called again where the database went away in the middle, also where only the answer to the commit was
        lost: what it does must do no harm when it is done twice.
        """
        engine = self.engine.execution_options(**{WRITES: True})
        return self._transact(work, engine, self.patience if patience is None else patience)

    def insert(self, table: Table) -> Any:
        """An INSERT that knows ON CONFLICT."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def now(self) -> ColumnElement[float]:
        """Seconds since 1970 by the database's clock, which all share; SQLite's is the machine's."""
        if self.is_sqlite:
            return literal(time.time(), Double)
        return cast(extract("epoch", func.clock_timestamp()), Double)

    def close(self) -> None:
        self.engine.dispose()

    def _transact(self, work: Callable[[Connection], T], engine: Engine, patience: float) -> T:
        trying = Retrying(
            retry=retry_if_exception(lambda e: isinstance(e, DBAPIError) and faults.passes(e)),
            stop=stop_after_delay(patience),
            wait=wait_exponential(multiplier=0.05, max=1.0) + wait_random(0, 0.05),
            reraise=True,
        )
        try:
            done: T = trying(self._once, work, engine)
        except PoolTimeoutError as error:
            raise HostError(
                f"The database {self.place} is too busy: no connection to it became free.",
                advice="Try again in a moment.",
                code="database-gone",
            ) from error
        except DBAPIError as error:
            ours = faults.as_ours(error, place=self.place)
            if ours is None:
                raise
            raise ours from error
        return done

    @staticmethod
    def _once(work: Callable[[Connection], T], engine: Engine) -> T:
        with engine.begin() as connection:
            return work(connection)


def parsed(url: str) -> URL:
    """The URL as SQLAlchemy takes it. Raises InputError for another database than ours."""
    try:
        found = make_url(url)
    except ArgumentError:
        found = None
    if found and found.get_backend_name() == "sqlite" and found.database not in {None, "", ":memory:"}:
        return found.set(drivername="sqlite")
    if found and found.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return found.set(drivername="postgresql+psycopg")
    raise InputError(
        f"{url.partition('://')[0]!r} is no database that the bot can use." if "://" in url else
        f"{url!r} is no URL of a database.",
        advice="Write sqlite:////folder/bot.db or postgresql://user@host/database.",
        code="bad-database-url",
    )  # fmt: skip


def _sqlite(url: URL) -> Engine:
    given = {"timeout": BUSY, "check_same_thread": False}
    engine = create_engine(url, connect_args=given, max_overflow=MOST)

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver begins no transaction by itself
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # One that reads first and writes later would fail at once where another has written in between.
        writes = connection.get_execution_options().get(WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgres(url: URL) -> Engine:
    given = {name: value for name, value in POSTGRES.items() if name not in url.query}
    return create_engine(url, connect_args=given, max_overflow=MOST)


def touch(file: Path) -> None:
    """An empty database that only its owner may read. Raises InputError where there is no folder for it."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise InputError(
            f"The database {file} cannot be made: {error.strerror}.",
            advice="Name a file in a folder that this user may write to.",
            code="no-database",
        ) from error
