"""What the pages are told by the configuration: where they are, who may look and ask, and how people sign in."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

from pydantic import SecretStr

from bot.config import rules
from bot.config.models import Config
from bot.request import Destination, Reload
from bot.trigger.inputs import Inputs

Strangers = Literal["read-only", "closed"]
FILE = "session-secret"  # the file in the state's folder


class Ruled(Protocol):
    """Where the configuration has an adapter go; None where it does not say. Raises InputError for no good name."""

    def __call__(self, repo_id: str, /, *, base: str, subfolder: str) -> Destination | None: ...


def _nowhere(_: str, /, *, base: str, subfolder: str) -> Destination | None:  # noqa: ARG001 - as the protocol has it
    """There is no configuration."""
    return None


@dataclass(frozen=True, kw_only=True)
class Client:
    """Our OAuth client at the Hub."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The pages of one service.

    `public_url` is where browsers find it, with its path; `endpoint` is the Hub's address. `strangers` who have not
    signed in see what is public (`read-only`), or nothing (`closed`). Whoever knows `operator_token` may everything,
    and so may `operators`, users of the Hub. `askers` are globs of Hub users and organisations who may ask for work.
    `secret` signs the sessions: the same on every server of one service. `inputs`, `thorough`, `reload` and `runner`
    are what a request leaves open, and so is what `ruled` says of where an adapter goes. `streams` is how many browsers
    may follow jobs at one time.
    """

    public_url: str
    endpoint: str = "https://huggingface.co"
    name: str = "merge-bot"
    strangers: Strangers = "closed"
    operators: tuple[str, ...] = ()
    askers: tuple[str, ...] = ()
    operator_token: str = field(default="", repr=False)
    secret: str = field(repr=False)
    client: Client | None = None
    inputs: Inputs = field(default_factory=Inputs)
    thorough: bool = False
    reload: Reload = "auto"
    runner: str = "auto"
    ruled: Ruled = field(default=_nowhere)
    streams: int = 200

    @property
    def secure(self) -> bool:
        """Whether browsers come over TLS, so that cookies never go without."""
        return self.public_url.startswith("https://")

    @property
    def path(self) -> str:
        """What stands before the path of every address of ours, as a browser sees it; empty, or `/bot`."""
        return urlsplit(self.public_url).path.rstrip("/")

    @property
    def callback(self) -> str:
        """Where the Hub sends people back to: what is registered with the client."""
        return f"{self.public_url.rstrip('/')}/sign-in/callback"


def of(config: Config, *, endpoint: str, public_url: str = "") -> Site:
    """The pages as the configuration has them. `public_url`: where the server listens, where nothing else is said.

    Raises OSError where the state's folder cannot be written to.
    """
    pages, known = config.pages, config.defaults
    client = None
    if pages.oauth_client_id and pages.oauth_client_secret:
        client = Client(id=pages.oauth_client_id, secret=pages.oauth_client_secret.get_secret_value())
    return Site(
        public_url=(config.server.public_url or public_url).rstrip("/"),
        endpoint=endpoint,
        strangers=pages.strangers,
        operators=pages.operators,
        askers=(*config.ask.users, *config.ask.organizations),
        operator_token=_said(pages.operator_token),
        secret=_said(pages.session_secret) or _kept(config.server.state / FILE),
        client=client,
        inputs=Inputs(
            dtype=known.dtype,
            validate=known.validation,
            quantized_base=known.quantized_base,
            allow_pickle=known.allow_pickle,
        ),
        thorough=known.thorough,
        reload=known.reload,
        runner=known.runner,
        ruled=partial(rules.ruled, config),
    )


def _said(secret: SecretStr | None) -> str:
    return "" if secret is None else secret.get_secret_value()


def _kept(path: Path) -> str:
    """The secret in the file, which is made once: sessions survive a restart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(48))
    with suppress(FileExistsError):  # another server of this machine was first, and its secret holds
        path.hardlink_to(made)
    made.unlink()
    return path.read_text().strip()
