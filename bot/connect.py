"""The Hub as the pipeline needs it, connected to when it is first used: a local merge never imports its client."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bot.errors import AccessError
from bot.progress import Progress
from bot.publish.marker import find_marker
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
        token = self._settings.read_token or stored_token()
        return HubReader(self._settings.endpoint, token=token, attempts=self._settings.attempts)

    def open(self, repo_id: str, *, revision: str | None = None, subfolder: str = "") -> Model:
        return self._hub.open(repo_id, revision=revision, subfolder=subfolder)

    def download(self, model: Model, *, names: list[str], progress: Progress) -> Path:
        return self._hub.download(model, names=names, progress=progress)


def publisher(settings: Settings) -> HubPublisher:
    """The publisher, with the write token. Raises AccessError without one: before the work, not after it."""
    from bot.clients.hub_publisher import HubPublisher  # noqa: PLC0415

    token = _write_token(settings)
    return HubPublisher(settings.endpoint, token=token, attempts=settings.attempts, read_marker=find_marker)


def written(settings: Settings, *, cache: Path) -> Hub:
    """The Hub as it is seen by whoever publishes, with the write token; what is downloaded goes into `cache`."""
    from bot.clients.hub_reader import HubReader  # noqa: PLC0415

    token = _write_token(settings)
    return HubReader(settings.endpoint, token=token, attempts=settings.attempts, cache=cache)


def repairer(settings: Settings) -> HubRepairer:
    """Who opens Hub PRs with repaired configs, with the write token. Raises AccessError without one."""
    from bot.clients.hub_repairer import HubRepairer  # noqa: PLC0415

    token = _write_token(settings)
    return HubRepairer(settings.endpoint, token=token, attempts=settings.attempts, read_marker=find_marker)


def _write_token(settings: Settings) -> str:
    from bot.clients import http  # noqa: PLC0415
    from bot.clients.tokens import stored_token  # noqa: PLC0415

    http.configure(settings.timeout)
    token = settings.write_token or stored_token()
    if token is None:
        raise AccessError(
            "Publishing to the Hub needs a token, and there is none.",
            advice="Set HF_TOKEN to a token with write permission, or run `hf auth login`.",
            code="no-token",
        )
    return token
