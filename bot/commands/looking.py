"""Looking for pushes that no webhook told of, as `merge-bot watch` does, and `merge-bot serve` beside its webhooks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from bot.errors import MergeBotError

if TYPE_CHECKING:
    from bot.config.models import Config
    from bot.jobs.database import Database
    from bot.settings import Settings
    from bot.watch import Watcher

LOG = logging.getLogger(__name__)
PATIENCE = 5.0  # seconds that a request to the Hub has at the end


def watcher(
    config: Config, settings: Settings, *, database: Database, stop: Event, dry: bool = False
) -> Watcher:
    """Who looks, as the configuration has it; what was seen lies in the database."""
    from bot import connect
    from bot.jobs.ledger import Ledger
    from bot.jobs.seen import Memory
    from bot.watch import Watcher, unlisted

    for glob in unlisted(config):
        LOG.warning("%s is for webhooks alone: nobody can list the models of all its owners.", glob)
    return Watcher(
        config=config,
        settings=settings,
        lister=connect.lister(settings),
        desk=Ledger(database),
        seen=Memory(database),
        say=LOG.info,
        stop=stop,
        dry=dry,
    )


@contextmanager
def beside(config: Config, settings: Settings, *, database: Database, missed: Event) -> Iterator[None]:
    """Looks in a thread of its own for as long as the block lasts: once, or again and again, by `polling.serve`.

    Once means also whenever `missed` is set: a push could not be kept, and the Hub tells of it once.
    """
    from bot.watch import owners

    if config.polling.serve == "never" or not any(owners(config)):
        yield
        return
    stop = Event()
    looks = watcher(config, settings, database=database, stop=stop)
    thread = Thread(
        target=look,
        args=(looks,),
        kwargs={"once": config.polling.serve == "start", "missed": missed},
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        missed.set()
        thread.join(PATIENCE)


def look(looks: Watcher, *, once: bool, missed: Event) -> None:
    """What the thread does, until `looks.stop` and then `missed` are set."""
    try:
        while not looks.stop.is_set():
            looks.watch(once=once)
            missed.wait()
            missed.clear()
    except MergeBotError as error:  # the webhooks go on
        LOG.warning("Missed pushes were not looked for: %s %s", error.sentence, error.advice)
