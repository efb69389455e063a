"""Where the service talks: what the doors of both hosts stand on, made of the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bot import connect
from bot.config.globs import matches
from bot.config.models import Config
from bot.config.rules import may_watch
from bot.doors import github as github_door
from bot.doors import hub as hub_door
from bot.doors.answering import Answering
from bot.doors.control import Place
from bot.doors.ground import Footing, Ground, HubGround
from bot.doors.pushed import adapters, is_overtaken
from bot.doors.rights import Rights
from bot.errors import InputError
from bot.forge import Forge
from bot.jobs import ordering
from bot.jobs.answers import Unheard
from bot.jobs.clerk import Door
from bot.jobs.inbox import Delivery
from bot.jobs.office import Office
from bot.jobs.order import Host, Order, understood
from bot.jobs.runners.runner import Make
from bot.jobs.seen import Memory
from bot.progress import Silent
from bot.request import MergeRequest
from bot.settings import Settings
from bot.trigger import github as github_trigger
from bot.trigger import hub as hub_trigger
from bot.trigger.inputs import Inputs


def thread_of(delivery: Delivery) -> Place | None:
    """The thread that it comes from, if it comes from one. Raises ValueError for no JSON."""
    payload = json.loads(delivery.body)
    is_hub = delivery.source == "hub"
    event = hub_trigger.event(payload) if is_hub else github_trigger.event(delivery.event, payload)
    return None if event.number is None else Place(delivery.source, event.repository, event.number)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Each host's doors and threads. `office` is where their jobs go; nothing is written into `folder` by a door.

    `seen` remembers pushes for `bot.watch`.
    """

    config: Config
    settings: Settings
    office: Office
    folder: Path
    seen: Memory

    def doors(self) -> Mapping[str, Door]:
        """By a delivery's source, what decides it."""
        return {"github": self.github, "hub": self.hub}

    def github(self, delivery: Delivery) -> tuple[str, ...]:
        """Decides a delivery of GitHub's."""
        event = github_trigger.event(delivery.event, json.loads(delivery.body), delivery=delivery.key)
        if not any(matches(event.repository, glob) for glob in self.config.github.repositories):
            return (f"Nothing to do: {event.repository} is not among github.repositories.",)
        ground = self._on_github(event.repository, run=delivery.key, folder=self.folder)
        return github_door.answer(event, ground=ground).notes

    def hub(self, delivery: Delivery) -> tuple[str, ...]:
        """Decides a delivery of the Hub's."""
        event = hub_trigger.event(json.loads(delivery.body))
        notes = hub_door.answer(event, ground=self._on_hub(event.repository, run=delivery.key)).notes
        push = hub_trigger.intent(event)
        if isinstance(push, hub_trigger.Push) and may_watch(self.config, push.repository):
            was_empty = partial(self._was_empty, push)
            self.seen.pushed(push.repository, before=push.before, commit=push.commit, was_empty=was_empty)
        return notes

    def _was_empty(self, push: hub_trigger.Push) -> bool:
        then = connect.repository(self.settings, push.repository).at(push.before or push.commit)
        return then is not None and not adapters(then)

    def threads(self) -> Mapping[Host, Callable[[Order], Answering]]:
        """By the host of an order, what makes the thread that it is answered in."""
        return {"github": self.thread, "hub": self.thread, "watch": self._unheard}

    def _unheard(self, order: Order) -> Answering:
        return Unheard(partial(is_overtaken, order.request.adapter, settings=self.settings))

    def thread(self, order: Order) -> Answering:
        """Where an order from a host is answered."""
        return ordering.answering(order, ground=self._footing(order, folder=self.folder))

    def fetch(self, order: Order, folder: Path, space: int) -> MergeRequest:
        """What the pipeline is asked for; an adapter of a GitHub PR is fetched into the folder, which has the space."""
        if order.target is None or order.origin.host != "github":
            return order.request
        ground = self._on_github(order.origin.repository, run=order.job.run, folder=folder)
        return ordering.request(order, ground=replace(ground, space=space))

    def fetched(self, make: Make, folder: Path, space: int) -> MergeRequest:
        """The same for a merge: the adapter of whoever asked first, of those that can be read."""
        if make.target is None or make.origin.host != "github":
            return make.request
        first = max(self.office.joined(make.id), key=lambda entry: entry.readable)
        return replace(make.request, adapter=self.fetch(understood(first), folder, space).adapter)

    def _footing(self, order: Order, *, folder: Path) -> Footing:
        if order.origin.host == "github":
            return self._on_github(order.origin.repository, run=order.job.run, folder=folder)
        return self._on_hub(order.origin.repository, run=order.job.run)

    def _on_github(self, repository: str, *, run: str, folder: Path) -> Ground:
        known = self.config.defaults
        inputs = Inputs(
            validate=known.validation,
            dtype=known.dtype,
            quantized_base=known.quantized_base,
            permission=self.config.ask.github_role,
            allow_pickle=known.allow_pickle,
        )
        return Ground(
            settings=self.settings,
            inputs=inputs,
            rights=self._rights(repository),
            progress=Silent(),
            run=run,
            url=self.config.server.public_url or "",
            folder=folder,
            settle=ordering.Enqueueing(desk=self.office),
            jobs=ordering.Queue(desk=self.office),
            connect=partial(self._forge, repository),
        )

    def _rights(self, repository: str) -> Rights:
        """Who may push there may not have our tokens: they are not that repository's, and serve others, too."""
        for rule in self.config.github_rules:
            if any(matches(repository, glob) for glob in rule.repositories):
                return Rights(trusted=rule.trusted, destinations=rule.destinations, forks=rule.forks)
        return Rights(trusted=False, destinations=(), forks=False)

    def _on_hub(self, repository: str, *, run: str) -> HubGround:
        login = self.config.hub.user
        return HubGround(
            settings=self.settings,
            progress=Silent(),
            run=run,
            url=self.config.server.public_url or "",
            folder=self.folder,
            settle=ordering.Enqueueing(desk=self.office),
            jobs=ordering.Queue(desk=self.office),
            config=self.config,
            repository=repository,
            connect=partial(connect.discussions, self.settings, repository=repository, login=login),
        )

    def _forge(self, repository: str) -> Forge:
        """As the App, where there is one, else with the token."""
        there = self.config.github
        if there.app_id is not None and there.private_key is not None:
            return connect.app_forge(
                self.settings,
                repository=repository,
                app_id=there.app_id,
                private_key=there.private_key.get_secret_value(),
                api_url=there.api_url,
            )
        if there.token is None:
            raise InputError(
                f"Nobody can answer in {repository}: the service has no GitHub App, and no token.",
                advice="Set app_id and private_key_file, or token_file, in [github].",
                code="github-closed",
            )
        token = there.token.get_secret_value()
        return connect.forge(self.settings, repository=repository, token=token, api_url=there.api_url)
