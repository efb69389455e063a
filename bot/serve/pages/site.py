"""What the pages are told by the configuration: where they are, who may look and ask, and how people sign in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bot.trigger.inputs import Inputs

Strangers = Literal["read", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Client:
    """Our OAuth client at the Hub."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The pages of one service.

    `public_url` is where browsers find it, without a path; `endpoint` is the Hub's address. `strangers` who have not
    signed in may `read` about what is public, or see `nothing`. Whoever knows `operator_token` may everything.
    `askers` are globs of Hub users and organisations who may ask for work. `secret` signs the sessions: the same on
    every server of one service. `inputs` are what a request leaves open. `streams` is how many browsers may follow
    jobs at one time.
    """

    public_url: str
    endpoint: str = "https://huggingface.co"
    name: str = "merge-bot"
    strangers: Strangers = "read"
    askers: tuple[str, ...] = ()
    operator_token: str = field(default="", repr=False)
    secret: str = field(repr=False)
    client: Client | None = None
    inputs: Inputs = field(default_factory=Inputs)
    streams: int = 200

    @property
    def secure(self) -> bool:
        """Whether browsers come over TLS, so that cookies never go without."""
        return self.public_url.startswith("https://")

    @property
    def callback(self) -> str:
        """Where the Hub sends people back to: what is registered with the client."""
        return f"{self.public_url.rstrip('/')}/sign-in/callback"
