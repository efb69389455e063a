"""The service's state for a command: which database, by merge-bot.toml and the environment, and what stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bot.commands import extra, running
from bot.terminal import session

if TYPE_CHECKING:
    from bot.jobs.database import Database
    from bot.jobs.desk import Desk
    from bot.jobs.reading import Reader

PATIENCE = 10.0  # seconds that somebody at a terminal waits for a database


@contextmanager
def database(file: Path | None, *, create: bool, verbosity: int) -> Iterator[Database]:
    """The database. Raises InputError (`no-database`) where there is none and none is to be made."""
    with session.tools(verbosity=verbosity, plain=True), extra.needed():
        from bot import settings
        from bot.config import load
        from bot.jobs import migration

        given = file or (running.FILE if running.FILE.exists() else None)
        config = load.load(given, settings.environment())
        if create and config.database_url is None:
            running.folder(config.server.state)
        opened = migration.opened(config.database, create=create, patience=PATIENCE)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def reader(file: Path | None, *, verbosity: int) -> Iterator[Reader]:
    """What is known of jobs: without DBOS, which takes a second to import."""
    with database(file, create=False, verbosity=verbosity) as opened:
        from bot.jobs.reading import Reader

        yield Reader(opened)


@contextmanager
def desk(file: Path | None, *, create: bool = False, verbosity: int) -> Iterator[Desk]:
    """What may be done with jobs."""
    with (
        database(file, create=create, verbosity=verbosity) as opened,
        session.tools(verbosity=verbosity, plain=True),
    ):
        from bot.jobs.office import Office
        from bot.jobs.queues import Queues

        with closing(Queues(opened)) as queues:
            queues.prepare({})  # where no service has run yet
            yield Office(opened, queues)
