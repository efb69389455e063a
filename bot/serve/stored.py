"""What the database says about jobs, for Prometheus: every server and worker of one service gives the same figures."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from bot.jobs.database import Database
from bot.jobs.reading import Reader

PATIENCE = 2.0  # seconds


def collect(database: Database) -> Iterator[Metric]:
    """The families. Raises HostError while the database is away."""
    reader = Reader(database)
    jobs = GaugeMetricFamily("merge_bot_jobs", "Jobs that are kept, by state.", labels=["state"])
    for state, count in reader.counts().items():
        jobs.add_metric([state], count)
    yield jobs
    depth = GaugeMetricFamily("merge_bot_queue_depth", "Jobs that wait, by runner.", labels=["runner"])
    age = GaugeMetricFamily(
        "merge_bot_queue_age_seconds", "How long the oldest has waited.", labels=["runner"]
    )
    for queue in reader.queues():
        depth.add_metric([queue.runner or "unchosen"], queue.depth)
        age.add_metric([queue.runner or "unchosen"], queue.age)
    yield depth
    yield age
