"""What the database says about jobs, for Prometheus: every server and worker of one service gives the same figures."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from sqlalchemy import func, select

from bot.jobs.database import Database
from bot.jobs.reading import Reader
from bot.jobs.tables import inbox, jobs, workers

PATIENCE = 2.0  # seconds


def collect(database: Database) -> Iterator[Metric]:
    """The families. Raises HostError while the database is away."""
    reader = Reader(database)
    states = GaugeMetricFamily("merge_bot_jobs", "Jobs that are kept, by state.", labels=["state"])
    for state, count in reader.counts().items():
        states.add_metric([state], count)
    yield states
    yield from _ended(database)
    depth = GaugeMetricFamily("merge_bot_queue_depth", "Jobs that wait, by runner.", labels=["runner"])
    age = GaugeMetricFamily(
        "merge_bot_queue_age_seconds", "How long the oldest has waited.", labels=["runner"]
    )
    for queue in reader.queues():
        depth.add_metric([queue.runner or "unchosen"], queue.depth)
        age.add_metric([queue.runner or "unchosen"], queue.age)
    yield depth
    yield age
    yield from _inbox(database)
    yield _workers(database)


def _ended(database: Database) -> Iterator[Metric]:
    """Of jobs that are kept: one that is removed takes its share along, so these may fall."""
    took = GaugeMetricFamily("merge_bot_job_seconds", "How long ended jobs took in all.", labels=["state"])
    size = GaugeMetricFamily(
        "merge_bot_job_bytes", "The size of the models that they made.", labels=["state"]
    )
    sums = func.sum(jobs.c.ended - jobs.c.started), func.sum(jobs.c.bytes)
    asked = select(jobs.c.state, *sums).where(jobs.c.ended.is_not(None)).group_by(jobs.c.state)
    for state, seconds, count in database.read(lambda c: c.execute(asked).all(), patience=PATIENCE):
        took.add_metric([state], max(0.0, float(seconds or 0.0)))
        size.add_metric([state], int(count or 0))
    yield took
    yield size


def _workers(database: Database) -> Metric:
    """An age by the database's clock; whether somebody is gone is decided by beats that stand still."""
    silent = GaugeMetricFamily(
        "merge_bot_worker_silence_seconds", "Since each was last heard of.", labels=["worker"]
    )
    asked = select(workers.c.executor, database.now() - workers.c.at)
    for executor, age in database.read(lambda connection: connection.execute(asked).all(), patience=PATIENCE):
        silent.add_metric([executor], max(0.0, age))
    return silent


def _inbox(database: Database) -> Iterator[Metric]:
    oldest = database.now() - func.min(inbox.c.received)
    waiting = select(func.count(), oldest).where(inbox.c.finished.is_(None))
    count, lag = database.read(lambda connection: connection.execute(waiting).one(), patience=PATIENCE)
    yield GaugeMetricFamily("merge_bot_inbox_waiting", "Deliveries that nobody has seen to.", value=count)
    yield GaugeMetricFamily(
        "merge_bot_inbox_lag_seconds", "How long the oldest of them has waited.", value=max(0.0, lag or 0.0)
    )
