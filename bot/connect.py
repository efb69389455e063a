"""The Hub as the pipeline needs it, connected to when it is first used: a local merge never imports its client."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bot.errors import AccessError
from bot.forge import Forge, HubTalk
from bot.progress import Progress
from bot.publish.marker import find_marker
from bot.request import Destination
from bot.settings import Settings
from bot.weights.files import Hub, Model

if TYPE_CHECKING:
    from bot.clients.hub_jobs import HubJobs
    from bot.clients.hub_lister import HubLister
    from bot.clients.hub_publisher import HubPublisher
    from bot.clients.hub_repairer import HubRepairer
    from bot.clients.hub_repository import HubRepository
    from bot.clients.hub_webhooks import HubWebhooks


class LazyHub:
    """Implements `bot.weights.files.Hub` with the read token.

    For somebody who is not known to be allowed what it may read, without it, but for models of their own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _hub(self) -> Hub:
        return self._reader(anonymous=self._settings.anonymous)

    @cached_property
    def _theirs(self) -> Hub:
        return self._reader(anonymous=False)

    def _reader(self, *, anonymous: bool) -> Hub:
        from bot.clients import http  # noqa: PLC0415
        from bot.clients.hub_reader import HubReader  # noqa: PLC0415
        from bot.clients.tokens import stored_token  # noqa: PLC0415

        http.configure(self._settings.timeout)
        known = self._settings
        token = None if anonymous else known.read_token or stored_token()
        return HubReader(known.endpoint, token=token, attempts=known.attempts, mounts=known.mounts)

    def open(self, repo_id: str, *, revision: str | None = None, subfolder: str = "") -> Model:
        if self._is_theirs(repo_id):
            model = self._theirs.open(repo_id, revision=revision, subfolder=subfolder)
            if self._is_theirs(model.pinned.location):  # a name may lead elsewhere
                return model
        return self._hub.open(repo_id, revision=revision, subfolder=subfolder)

    def download(self, model: Model, *, names: list[str], progress: Progress) -> Path:
        return self._of(model).download(model, names=names, progress=progress)

    def adds(self, model: Model, *, names: list[str], beside: Path) -> int:
        is_remote = model.pinned.kind == "hub"
        return self._of(model).adds(model, names=names, beside=beside) if is_remote else 0

    def fetch(self, model: Model, *, name: str, out: Path, progress: Progress) -> Path:
        return self._of(model).fetch(model, name=name, out=out, progress=progress)

    def _of(self, model: Model) -> Hub:
        return self._theirs if self._is_theirs(model.pinned.location) else self._hub

    def _is_theirs(self, repo_id: str) -> bool:
        owner, slash, _ = repo_id.partition("/")
        return bool(slash) and owner.casefold() in self._settings.owned


def lister(settings: Settings) -> HubLister:
    """Who lists the models of users and organisations, with the read token."""
    from bot.clients import http  # noqa: PLC0415
    from bot.clients.hub_lister import HubLister  # noqa: PLC0415
    from bot.clients.tokens import stored_token  # noqa: PLC0415

    http.configure(settings.timeout)
    token = settings.read_token or stored_token()
    return HubLister(settings.endpoint, token=token, attempts=settings.attempts)


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


def hub_jobs(settings: Settings, *, namespace: str | None) -> HubJobs:
    """The jobs on the Hub that this namespace, or the token's user, pays for. Raises AccessError without a token."""
    from bot.clients.hub_jobs import HubJobs  # noqa: PLC0415

    token = _write_token(settings, namespace or "")
    return HubJobs(settings.endpoint, token=token, namespace=namespace, attempts=settings.attempts)


def tokens(settings: Settings) -> dict[str, str]:
    """Our tokens, as another merge-bot takes them from its environment: secrets."""
    from bot.clients.tokens import stored_token  # noqa: PLC0415

    read = None if settings.anonymous else settings.read_token or stored_token()
    known = {"MERGE_BOT_READ_TOKEN": read, "MERGE_BOT_WRITE_TOKEN": settings.write_token or stored_token()}
    return {name: token for name, token in known.items() if token}


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


def app_forge(settings: Settings, *, repository: str, app_id: int, private_key: str, api_url: str) -> Forge:
    """The repository on GitHub, as a GitHub App that is installed there. Raises InputError as `forge` does.

    Its first request raises InputError where the App is not installed or its key is none, and AccessError where GitHub
    does not take the key.
    """
    from bot.clients.github import GitHub  # noqa: PLC0415
    from bot.clients.github_app import Installation, InstallationToken, installation_token  # noqa: PLC0415

    def make() -> Installation:
        return installation_token(
            app_id,
            private_key,
            repository,
            api_url=api_url,
            timeout=settings.timeout,
            attempts=settings.attempts,
        )

    return GitHub(
        repository,
        token=InstallationToken(make),
        api_url=api_url,
        timeout=settings.timeout,
        attempts=settings.attempts,
    )


def forge(settings: Settings, *, repository: str, token: str, api_url: str) -> Forge:
    """The repository on GitHub, with this token. Raises InputError without GitHub's client, or for what is no name."""
    from bot.clients.github import GitHub  # noqa: PLC0415

    return GitHub(
        repository, token=token, api_url=api_url, timeout=settings.timeout, attempts=settings.attempts
    )


def discussions(settings: Settings, *, repository: str, login: str | None = None) -> HubTalk:
    """The discussions of a model on the Hub, with the write token. Raises AccessError without one."""
    from bot.clients.hub_discussions import HubDiscussions  # noqa: PLC0415

    token = _write_token(settings, repository)
    return HubDiscussions(
        repository, endpoint=settings.endpoint, token=token, attempts=settings.attempts, login=login
    )


def repository(settings: Settings, repo_id: str) -> HubRepository:
    """A model repository on the Hub, with the read token."""
    from bot.clients import http  # noqa: PLC0415
    from bot.clients.hub_repository import HubRepository  # noqa: PLC0415
    from bot.clients.tokens import stored_token  # noqa: PLC0415

    http.configure(settings.timeout)
    token = settings.read_token or stored_token()
    return HubRepository(repo_id, endpoint=settings.endpoint, token=token, attempts=settings.attempts)


def webhooks(settings: Settings) -> HubWebhooks:
    """The webhooks of the write token's user. Raises AccessError without one."""
    from bot.clients.hub_webhooks import HubWebhooks  # noqa: PLC0415

    token = _write_token(replace(settings, identity=False), "")
    return HubWebhooks(settings.endpoint, token=token, attempts=settings.attempts)
