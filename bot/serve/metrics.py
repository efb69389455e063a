"""What this process counts about its own requests. What there is to say about jobs is read from the database."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

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
