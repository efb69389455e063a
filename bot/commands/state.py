"""The service's state for a command: which database, by merge-bot.toml and the environment, and what stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot.commands import extra
from bot.terminal import session

if TYPE_CHECKING:
    from bot.jobs.database import Database
    from bot.jobs.desk import Desk

PATIENCE = 10.0  # seconds that somebody at a terminal waits for a database
DEFAULT = Path("merge-bot.toml")
config = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The service's configuration; by default merge-bot.toml, if it is there, and the environment.",
)


@contextmanager
def database(file: Path | None, *, create: bool, verbosity: int) -> Iterator[Database]:
    """The database. Raises InputError (`no-database`) where there is none and none is to be made."""
    with session.tools(verbosity=verbosity, plain=True), extra.needed():
        from bot import settings
        from bot.config import load
        from bot.jobs import migration

        given = file or (DEFAULT if DEFAULT.exists() else None)
        url = load.load(given, settings.environment()).database
        opened = migration.opened(url, create=create, patience=PATIENCE)
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def desk(file: Path | None, *, create: bool = False, verbosity: int) -> Iterator[Desk]:
    """What may be done with jobs."""
    with database(file, create=create, verbosity=verbosity) as opened:
        from bot.jobs.ledger import Ledger

        yield Ledger(opened)
