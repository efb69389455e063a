"""Deliveries: a burst with duplicates from many callers, each put durable before it returns."""

from __future__ import annotations

import asyncio
import random
import time

from sqlalchemy import func, select

from benchmarks.sections.place import Figure, Place, Section, percentile
from bot.jobs.database import Database
from bot.jobs.inbox import Delivery, Inbox
from bot.jobs.tables import inbox as table

DELIVERIES, DUPLICATES, CALLERS, BODY = 10_000, 0.3, 50, b"x" * 4096


def measure(place: Place) -> list[Figure]:
    with place.databases() as databases:
        return [
            figure for name, database in databases for figure in _measure(name, database, quick=place.quick)
        ]


def _measure(name: str, database: Database, *, quick: bool) -> list[Figure]:
    count = DELIVERIES // 10 if quick else DELIVERIES
    inbox = Inbox(database)
    alone = _one_after_the_other(inbox, count=count // 50)
    keys = [f"burst-{n}" for n in range(round(count * (1 - DUPLICATES)))]
    wanted, rest = len(keys), random.Random(7)
    keys += rest.choices(keys, k=count - wanted)
    rest.shuffle(keys)
    begun = time.perf_counter()
    waits = asyncio.run(_burst(inbox, keys))
    took = time.perf_counter() - begun
    inbox.close()
    of_burst = table.c.key.startswith("burst-")
    kept = database.read(lambda c: c.scalar(select(func.count(func.distinct(table.c.key))).where(of_burst)))
    rows = database.read(lambda c: c.scalar(select(func.count()).where(of_burst)))
    return [
        Figure(
            name=f"{name}: puts", value=count / took, unit="/s", least=1000 if database.is_sqlite else None
        ),
        Figure(name=f"{name}: puts one after the other", value=alone, unit="/s"),
        Figure(name=f"{name}: a put, median", value=1000 * percentile(waits, 50), unit="ms"),
        Figure(name=f"{name}: a put, p99", value=1000 * percentile(waits, 99), unit="ms", most=100),
        Figure(name=f"{name}: a put, longest", value=1000 * max(waits), unit="ms"),
        Figure(name=f"{name}: lost", value=wanted - kept, unit="", most=0),
        Figure(name=f"{name}: twice", value=rows - kept, unit="", most=0),
    ]


def _one_after_the_other(inbox: Inbox, *, count: int) -> float:
    """Puts a second where nobody else puts: each a transaction of its own."""
    begun = time.perf_counter()
    for n in range(count):
        inbox.put([_delivery(f"alone-{n}")])
    return count / (time.perf_counter() - begun)


async def _burst(inbox: Inbox, keys: list[str]) -> list[float]:
    """How many seconds each put took."""
    waits = []

    async def call():
        while keys:
            begun = time.perf_counter()
            await inbox.put_async([_delivery(keys.pop())])
            waits.append(time.perf_counter() - begun)

    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return waits


def _delivery(key: str) -> Delivery:
    return Delivery(key=key, source="hub", event="repo.content", body=BODY)


SECTION = Section(
    title=f"Deliveries: {DELIVERIES:,}, {DUPLICATES:.0%} of them twice, from {CALLERS} callers at once",
    measure=measure,
)
