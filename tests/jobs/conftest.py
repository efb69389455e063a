"""Databases to test on: SQLite in a file, and a private PostgreSQL where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.jobs.database import Database
from bot.jobs.ledger import Ledger
from bot.jobs.migration import opened
from tests.jobs import postgres as private

NO_POSTGRES = "PostgreSQL is not installed"


@pytest.fixture(scope="session")
def postgres() -> Iterator[private.Postgres]:
    if not private.program("initdb"):
        pytest.skip(NO_POSTGRES)
    with private.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that is still empty."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bot.db'}"
    server: private.Postgres = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
def open_database() -> Iterator[Callable[..., Database]]:
    """Opens databases, and closes them at the end."""
    there: list[Database] = []

    def open_(url: str, **options: object) -> Database:
        there.append(opened(url, **options))
        return there[-1]

    yield open_
    for database in there:
        database.close()


@pytest.fixture
def database(url: str, open_database: Callable[..., Database]) -> Database:
    return open_database(url)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)
