"""`merge-bot watch`: polling for those without a webhook."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING

import click

from bot import options
from bot.commands import extra, running
from bot.errors import InputError
from bot.terminal import session

if TYPE_CHECKING:
    from bot.config.models import Config
    from bot.jobs.database import Database

LOG = logging.getLogger(__name__)


def _moment(_: click.Context, __: click.Parameter, text: str | None) -> datetime | None:
    """A date, with a time or without; by itself it is UTC."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        raise click.BadParameter(f"{text!r} is no date, such as 2026-11-01 or 2026-11-01T12:30.") from None
    return found.replace(tzinfo=found.tzinfo or UTC) if found else None


@click.command()
@running.config
@click.option("--once", is_flag=True, help="Look once, and end.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be merged; queue nothing, and remember nothing."
)
@click.option(
    "--since",
    metavar="DATE",
    callback=_moment,
    help="Merge also what was pushed after this, at the first look: 2026-11-01, in UTC.",
)
@running.log
@options.verbose
def watch(
    *, file: Path | None, once: bool, dry_run: bool, since: datetime | None, form: str, verbose: int
) -> None:
    """Look for adapters that watched users and organisations have pushed, and queue their merges."""
    with ExitStack() as stack:
        stack.enter_context(session.tools(verbosity=verbose, plain=True))
        with extra.needed():
            from bot import connect
            from bot.jobs.ledger import Ledger
            from bot.jobs.seen import Memory
            from bot.watch import Watcher, unlisted
        config, settings = running.configured(file, form=form, verbose=verbose)
        for glob in unlisted(config):
            LOG.warning("%s is for webhooks alone: nobody can list the models of all its owners.", glob)
        database = _read(config, stack) if dry_run else running.database(config, stack)
        watcher = Watcher(
            config=config,
            settings=settings,
            lister=connect.lister(settings),
            desk=Ledger(database),
            seen=Memory(database),
            say=LOG.info,
            stop=Event(),
            dry=dry_run,
        )
        if once or dry_run:
            watcher.look(since=since)
        else:
            with suppress(KeyboardInterrupt):  # SIGTERM, too: there is nothing that could be half-done
                watcher.watch(since=since)


def _read(config: Config, stack: ExitStack) -> Database:
    """The database as it is; where there is none, one that goes with this process: nothing was seen yet."""
    from bot.jobs.migration import opened

    try:
        found = opened(config.database, create=False)
    except InputError as error:
        if error.code != "no-database":
            raise
        folder = stack.enter_context(TemporaryDirectory())
        found = opened(f"sqlite:///{folder}/seen.sqlite")
    stack.callback(found.close)
    return found
