"""The Hub as the pipeline needs it, connected to when it is first used: a local merge never imports its client."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bot.errors import AccessError
from bot.forge import Forge
from bot.progress import Progress
from bot.publish.marker import find_marker
from bot.request import Destination
from bot.settings import Settings
from bot.weights.files import Hub, Model

if TYPE_CHECKING:
    from bot.clients.hub_publisher import HubPublisher
    from bot.clients.hub_repairer import HubRepairer


class LazyHub:
    """Implements `bot.weights.files.Hub` with the read token."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _hub(self) -> Hub:
        from bot.clients import http  # noqa: PLC0415
        from bot.clients.hub_reader import HubReader  # noqa: PLC0415
        from bot.clients.tokens import stored_token  # noqa: PLC0415

        http.configure(self._settings.timeout)
        token = None if self._settings.anonymous else self._settings.read_token or stored_token()
        return HubReader(self._settings.endpoint, token=token, attempts=self._settings.attempts)

    def open(self, repo_id: str, *, revision: str | None = None, subfolder: str = "") -> Model:
        return self._hub.open(repo_id, revision=revision, subfolder=subfolder)

    def download(self, model: Model, *, names: list[str], progress: Progress) -> Path:
        return self._hub.download(model, names=names, progress=progress)

    def fetch(self, model: Model, *, name: str, out: Path, progress: Progress) -> Path:
        return self._hub.fetch(model, name=name, out=out, progress=progress)


def publisher(settings: Settings, to: Destination) -> HubPublisher:
    """The publisher, with a write token. Raises AccessError without one: before the work, not after it."""
    from bot.clients.hub_publisher import HubPublisher  # noqa: PLC0415

    token = _write_token(settings, to.location)
    return HubPublisher(settings.endpoint, token=token, attempts=settings.attempts, read_marker=find_marker)


def written(settings: Settings, repo_id: str, *, cache: Path) -> Hub:
    """The Hub as whoever publishes there sees it, with the write token; what is downloaded goes into `cache`."""
    from bot.clients.hub_reader import HubReader  # noqa: PLC0415

    token = _write_token(settings, repo_id)
    return HubReader(settings.endpoint, token=token, attempts=settings.attempts, cache=cache)


def repairer(settings: Settings, repo_id: str) -> HubRepairer:
    """Who opens Hub PRs with repaired configs, with the write token. Raises AccessError without one."""
    from bot.clients.hub_repairer import HubRepairer  # noqa: PLC0415

    token = _write_token(settings, repo_id)
    return HubRepairer(settings.endpoint, token=token, attempts=settings.attempts, read_marker=find_marker)


def _write_token(settings: Settings, repo_id: str) -> str:
    """A Trusted Publisher's where this is its workflow, else the one that is set, else the one that is stored."""
    from bot.clients import http, identity  # noqa: PLC0415
    from bot.clients.tokens import stored_token  # noqa: PLC0415

    http.configure(settings.timeout)
    token = settings.write_token or stored_token()
    if settings.identity:
        try:
            return identity.publishing_token(repo_id, endpoint=settings.endpoint)
        except (
            AccessError
        ):  # not set up for this repository, or there is none yet: a token of the user's will do
            if token is None:
                raise
    if token is None:
        raise AccessError(
            "Publishing to the Hub needs a token, and there is none.",
            advice="Set HF_TOKEN to a token with write permission, or run `hf auth login`.",
            code="no-token",
        )
    return token


def forge(settings: Settings, *, repository: str, token: str, api_url: str) -> Forge:
    """The repository on GitHub, with this token. Raises InputError without GitHub's client, or for what is no name."""
    from bot.clients.github import GitHub  # noqa: PLC0415

    return GitHub(
        repository, token=token, api_url=api_url, timeout=settings.timeout, attempts=settings.attempts
    )
