"""What this process counts about its own requests. What there is to say about jobs is read from the database."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds


class Metrics:
    """A registry of its own, so that two applications in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "merge_bot_http_requests",
            "Requests that were answered, by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "merge_bot_http_seconds",
            "How long answers took, by route.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.deliveries = Counter(
            "merge_bot_deliveries",
            "Deliveries of webhooks, by source and what became of them.",
            ("source", "fate"),
            registry=self.registry,
        )
        self.database = Gauge(
            "merge_bot_database_up", "Whether the database answered this scrape.", registry=self.registry
        )

    def page(self, stored: Iterable[Metric] = (), *, database_up: bool) -> bytes:
        """All of it, with what the database had to say."""
        self.database.set(int(database_up))
        once = CollectorRegistry(auto_describe=False)
        once.register(_Given(tuple(stored)))
        return generate_latest(self.registry) + generate_latest(once)


class _Given(Collector):
    def __init__(self, families: tuple[Metric, ...]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
