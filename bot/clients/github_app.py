"""A GitHub App: signs in with its private key, and gets tokens for one repository and a few permissions each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bot.clients.github_api import Api, app_auth
from bot.errors import AccessError, InputError

PERMISSIONS = {"checks": "write", "contents": "read", "pull_requests": "write"}  # what the bot needs
EARLY = 300.0  # seconds before its end a token is made anew: a request may have to wait


@dataclass(frozen=True, kw_only=True)
class Installation:
    """The App at work in one repository: `expires` is when the token ends (ISO 8601, an hour from its making).

    `login` is whose comments the App's are, for `GitHub(…, login=…)`: its token may not ask.
    """

    token: str = field(repr=False)
    login: str
    expires: str

    @property
    def ends(self) -> float:
        """The same in seconds since 1970."""
        return datetime.fromisoformat(self.expires).timestamp()


class InstallationToken:
    """What gives the token of the moment for `GitHub(…, token=…)`: they end after an hour, and a merge may take longer.

    Raises what `installation_token` does.
    """

    def __init__(self, make: Callable[[], Installation], *, clock: Callable[[], float] = time.time) -> None:
        self._make, self._clock = make, clock
        self._made: Installation | None = None
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            if self._made is None or self._made.ends - self._clock() < EARLY:
                self._made = self._make()
            return self._made.token


def installation_token(
    app_id: int | str,
    private_key: str,
    repository: str,
    permissions: Mapping[str, str] = PERMISSIONS,
    *,
    api_url: str = "https://api.github.com",
    timeout: float = 30.0,
    attempts: int = 5,
    patience: float = 120.0,
) -> Installation:
    """A token for this repository alone, with these permissions and no more; their names have underscores.

    Raises InputError when the key is none, the App is not installed there, or it was not granted the permissions;
    AccessError when GitHub does not take the key for the App's; HostError when GitHub does not answer.
    """
    auth, what = app_auth(app_id, private_key), f"sign in to {repository} as a GitHub App"
    api = Api(repository, auth=auth, url=api_url, timeout=timeout, attempts=attempts, patience=patience)
    login = _login(api, app_id, what)
    found = api.find("installation", what=what, read=lambda one: int(one["id"]))
    if found is None:
        raise InputError(
            f"The GitHub App {login} is not installed on {repository}.",
            advice="Install it from its page on GitHub, and choose this repository there.",
            code="github-not-installed",
        )

    def installation(answer: Any) -> Installation:
        return Installation(token=str(answer["token"]), login=login, expires=str(answer["expires_at"]))

    body = {"repositories": [repository.partition("/")[2]], "permissions": dict(permissions)}
    return api.ask(
        "POST", f"/app/installations/{found}/access_tokens", what=what, read=installation, body=body
    )


def _login(api: Api, app_id: int | str, what: str) -> str:
    try:
        return api.ask("GET", "/app", what=what, read=lambda app: f"{app['slug']}[bot]")
    except AccessError as error:
        raise AccessError(
            f"GitHub does not take the private key for that of App {app_id}.",
            advice="Check the App's id, make a new key on its page, and see that this machine's clock is right.",
            code="github-bad-key",
        ) from error
