"""Lists, counts and single jobs, in a database with very many of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.sections.place import Figure, Place, Section, percentile
from bot.jobs.database import Database
from bot.jobs.ledger import Ledger
from tests.jobs import many
from tests.jobs.orders import order

JOBS, TURNS, MOST = 100_000, 20, 100  # most: milliseconds


def measure(place: Place) -> list[Figure]:
    with place.databases() as databases:
        return [
            figure for name, database in databases for figure in _measure(name, database, quick=place.quick)
        ]


def _measure(name: str, database: Database, *, quick: bool) -> list[Figure]:
    many.fill(database, JOBS // 10 if quick else JOBS)
    ledger = Ledger(database)
    looks: dict[str, Callable[[], object]] = {
        "the newest 50": ledger.entries,
        "a page of old ones": lambda: ledger.entries(before=many.FIRST + 5000),
        "two states": lambda: ledger.entries(states=frozenset({"running", "failed"})),
        "a text that one has": lambda: ledger.entries(text="adapter-7777\n"),
        "a text that none has": lambda: ledger.entries(text="nobody/nothing"),
        "counts": ledger.counts,
        "queues": ledger.queues,
        "one job": lambda: ledger.entry(f"{1234:032x}"),
        "a quota": lambda: ledger.used("github:ada"),
    }
    figures = [
        Figure(name=f"{name}: {what}", value=_worst(look), unit="ms", most=MOST)
        for what, look in looks.items()
    ]
    new = [order(f"new/{n}") for n in range(200)]
    begun = time.perf_counter()
    for each in new:
        ledger.enqueue(each)
    return [
        *figures,
        Figure(name=f"{name}: jobs queued", value=len(new) / (time.perf_counter() - begun), unit="/s"),
    ]


def _worst(look: Callable[[], object]) -> float:
    """Milliseconds that 95 of a hundred looks do not exceed."""
    took = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        look()
        took.append(time.perf_counter() - begun)
    return 1000 * percentile(took, 95)


SECTION = Section(title=f"Lists of {JOBS:,} jobs (p95 of {TURNS} looks)", measure=measure)
