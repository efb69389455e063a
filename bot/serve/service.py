"""What the HTTP side stands on: a record that the command fills in, so that tests can fill it in as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter
from prometheus_client.metrics_core import Metric

from bot.errors import HostError
from bot.jobs.inbox import Delivery
from bot.serve.metrics import Metrics

Check = Callable[[], str]  # "" while all is well, else one sentence; may block
Collect = Callable[[], Iterable[Metric]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a stranger may take: `body` bytes a request, `bodies` bytes of a door at a time, `connections` at a time.

    `patience` is how many seconds a request may take to arrive whole, `body_patience` how many the body of a webhook,
    `idle` how many a connection waits for the next.
    """

    body: int = 4 * 2**20  # the longest comment under the longest description is a third of that
    bodies: int = 64 * 2**20
    connections: int = 512
    patience: float = 20.0
    body_patience: float = 5.0  # hosts send theirs in one go
    idle: float = 30.0

    @property
    def share(self) -> int:
        """Bytes of `bodies` that one address may hold: behind a proxy, all have its address."""
        return max(self.body, self.bodies // 4)


async def nowhere(_: Sequence[Delivery]) -> None:
    """Where there is no inbox. Raises HostError: it is not stored."""
    raise HostError("No deliveries are taken here.", advice="Send them to the server.", code="no-inbox")


class Drain:
    """Whether the service is on its way out: `/readyz` says so, and no work is begun."""

    def __init__(self) -> None:
        self.begun = False


@dataclass(frozen=True, kw_only=True)
class Service:
    """`put` makes deliveries durable before it returns and drops those it has; `checks` are what `/readyz` asks.

    `missed` hears of a delivery that could not be kept, which the Hub does not send again.

    `collect` gives the metrics that come from the database, and may block or raise HostError; `routers` are the pages.
    `path` is what `public_url` has behind its host: proxies leave it before the paths of requests, or take it away.
    An empty secret closes that webhook, and an empty `metrics_token` closes `/metrics`.
    """

    put: Callable[[Sequence[Delivery]], Awaitable[None]] = nowhere
    missed: Callable[[], None] = field(default=lambda: None)
    hub_secret: str = field(default="", repr=False)
    github_secret: str = field(default="", repr=False)
    metrics_token: str = field(default="", repr=False)
    checks: Mapping[str, Check] = field(default_factory=dict)
    collect: Collect = tuple
    routers: tuple[APIRouter, ...] = ()
    path: str = ""
    limits: Limits = field(default_factory=Limits)
    metrics: Metrics = field(default_factory=Metrics)
    drain: Drain = field(default_factory=Drain)
