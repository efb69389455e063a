"""Watching without webhooks: what users and organisations have pushed since it was looked at last, as orders.

It also finds what webhooks have missed: what a webhook has brought in is a job that the desk knows already.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from threading import Event
from typing import Protocol

from bot.clients.hub_lister import HubLister, Listed, Page, asked_to_wait
from bot.config.models import Config
from bot.config.rules import may_watch
from bot.errors import HostError, MergeBotError
from bot.jobs.desk import Desk
from bot.jobs.order import Order
from bot.jobs.pushed import orders
from bot.jobs.seen import MODEL, OWNER
from bot.settings import Settings
from bot.trigger.hub import Ignored
from bot.wording import counted

LONGEST = 3600.0  # seconds between two looks while the Hub is at fault
JITTER = 0.1  # of a pause: many who began in the same minute do not stay together


class Seen(Protocol):
    """What was seen, which outlives the process: of a `model` its commit, of an `owner` the tag of their first page.

    Raises HostError (`database-gone`) while the database cannot be reached.
    """

    def get(self, kind: str, name: str) -> str | None:
        """What was put there last; None: nothing was."""

    def put(self, kind: str, name: str, value: str) -> None:
        """It is kept once this returns."""


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Looks, one request after the other. `say` is told what was found, a line each; `stop` ends it.

    `dry`: nothing is handed to the desk, and nothing remembered.
    """

    config: Config
    settings: Settings
    lister: HubLister
    desk: Desk
    seen: Seen
    say: Callable[[str], None]
    stop: Event
    dry: bool = False

    def watch(self, *, since: datetime | None = None, once: bool = False) -> None:
        """Looks until `stop` is set: less often while Hub or database are at fault, and nothing is given up.

        `once`: until a look has come to its end.

        Raises AccessError for a token that the Hub does not take.
        """
        failures = 0
        while not self.stop.is_set():
            asked = 0.0
            try:
                self.look(since=since)
                if once:
                    return
                failures, since = 0, None
            except HostError as error:
                failures, asked = failures + 1, asked_to_wait(error) or 0.0
                self.say(f"{error.sentence} {error.advice}")
            pause = min(self.config.polling.seconds * 2 ** min(failures, 16), LONGEST)
            self.stop.wait(max(pause, asked) * (1 + JITTER * random.random()))  # noqa: S311 - it hides nothing

    def look(self, *, since: datetime | None = None) -> tuple[Order, ...]:
        """One look at every owner: the orders that came of it.

        What was pushed after `since` counts as new though it was seen. At the first look at an owner nothing else is
        new, unless the configuration says since when. Raises HostError when Hub or database are at fault; what was
        found before that is kept, and what was not is found by the next look.
        """
        return tuple(order for owner in owners(self.config) for order in self._owner(owner, since))

    def _owner(self, owner: str, since: datetime | None) -> Iterator[Order]:
        tag = self.seen.get(OWNER, owner)
        first = tag is None
        after = since or (self.config.polling.since if first else None)
        newest = self.lister.page(owner, tag="" if since else tag or "")
        page: Page | None = newest
        count = 0
        while page is not None and not page.unchanged:
            count += len(page.models)
            changed = [model for model in page.models if self._is_new(model, after)]
            for model in changed:
                if self.stop.is_set():
                    return
                yield from self._pushed(model, first=first, after=after)
            # Changes come first: behind a page without any there are none, but where nothing was seen yet.
            page = self._next(owner, page) if changed or first else None
        if first:
            when = f"after {after:%Y-%m-%d %H:%M} UTC" if after else "from now on"
            self.say(f"{owner} has {counted(count, 'model')}; what is pushed {when} is merged.")
        self._remember(OWNER, owner, newest.tag)

    def _next(self, owner: str, page: Page) -> Page | None:
        if not page.following:
            return None
        self.stop.wait(page.wait)
        return self.lister.page(owner, following=page.following)

    def _is_new(self, model: Listed, after: datetime | None) -> bool:
        known = self.seen.get(MODEL, model.repository)
        return known != model.commit or (after is not None and model.modified > after)

    def _pushed(self, model: Listed, *, first: bool, after: datetime | None) -> Iterator[Order]:
        """The orders of one push. What is wrong with it is said once, and not looked at again."""
        wanted = not first or (after is not None and model.modified > after)
        if wanted and may_watch(self.config, model.repository):
            try:
                yield from self._handed_in(model)
            except HostError:
                raise
            except MergeBotError as error:
                self.say(f"{model.repository}: {error.sentence} {error.advice}")
        self._remember(MODEL, model.repository, model.commit)

    def _handed_in(self, model: Listed) -> Iterator[Order]:
        known = self.seen.get(MODEL, model.repository)
        found = orders(
            model.repository,
            model.commit,
            before=known if known != model.commit else None,
            config=self.config,
            settings=self.settings,
        )
        for order in () if isinstance(found, Ignored) else found:
            if self.desk.entry(order.job.key) is not None:
                continue  # a webhook was quicker
            if not self.dry:
                self.desk.enqueue(order)
            self.say(f"{order.job.what} {'would be merged' if self.dry else 'is queued'}.")
            yield order

    def _remember(self, kind: str, name: str, value: str) -> None:
        if not self.dry:
            self.seen.put(kind, name, value)


def owners(config: Config) -> tuple[str, ...]:
    """The users and organisations that rules name, each once. Of a glob of owners nobody can list the models."""
    named = [name for rule in config.watch if rule.enabled for name in rule.owners]
    parts = [glob.partition("/")[0] for glob in _globs(config)]
    return tuple(dict.fromkeys([*named, *(part for part in parts if not _is_open(part))]))


def unlisted(config: Config) -> tuple[str, ...]:
    """The globs whose owners are globs, too: only webhooks serve them."""
    return tuple(glob for glob in _globs(config) if _is_open(glob.partition("/")[0]))


def _globs(config: Config) -> Iterator[str]:
    listed = [glob for rule in config.watch if rule.enabled for glob in rule.repositories]
    return (glob for glob in (*listed, *config.repository_file.opt_in) if not glob.startswith("!"))


def _is_open(text: str) -> bool:
    return bool(set("*?[") & set(text))
