"""What one executor counts about its own work, for Prometheus: seconds by stage, and faults that were not its own."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from tenacity import RetryCallState

from bot.errors import HostError
from bot.job import Stage

BUCKETS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600)  # seconds


class Figures(Collector):
    """In a registry of its own, so that two executors in one process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._stages = Histogram(
            "merge_bot_stage_seconds",
            "How long the stages of jobs took here.",
            ("stage",),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._faults = Counter(
            "merge_bot_host_errors",
            "Faults of hosts and of the database that jobs met here, each try.",
            ("code",),
            registry=self._registry,
        )

    def took(self, stage: Stage, seconds: float) -> None:
        """A stage is over. How long a job was queued, the database knows."""
        if stage != "queued":
            self._stages.labels(stage).observe(seconds)

    def tried(self, state: RetryCallState) -> None:
        """The `after` of a retry: a try that failed."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, HostError):
            self._faults.labels(error.code).inc()

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect()
