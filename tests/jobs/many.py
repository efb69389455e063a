"""A database as it is after some months: for tests and benchmarks of lists."""

from __future__ import annotations

import json
from dataclasses import replace

from sqlalchemy import insert

from bot.job import Job
from bot.jobs import rows, tables
from bot.jobs.database import Database
from bot.jobs.order import Order
from tests.jobs.orders import PUBLISHED, order

FIRST = 1_700_000_000.0
ODD = {0: "failed", 1: "refused", 2: "running"}  # of a hundred; all others are published
BATCH = 5000


def fill(database: Database, count: int) -> None:
    """Jobs `ada/adapter-0` and so on, a second apart; some have a plan of 20 kB."""
    database.write(
        lambda connection: [_fill(connection, range(at, at + BATCH)) for at in range(0, count, BATCH)]
    )


def _fill(connection, numbers):
    orders = [_order(n) for n in numbers]
    new = {"attempt": 1, "stage": "publishing"}
    connection.execute(
        insert(tables.jobs),
        [
            {**rows.of_order(each), **new, "state": ODD.get(n % 100, "published"), "created": FIRST + n}
            for n, each in zip(numbers, orders, strict=True)
        ],
    )
    ids = [each.job.key for each in orders]
    document, details = rows.document(orders[0]), [json.dumps({"plan": "x" * 20_000}), "{}"]
    connection.execute(insert(tables.orders), [{"job": id_, "document": document} for id_ in ids])
    outcome = rows.document(PUBLISHED)
    connection.execute(
        insert(tables.outcomes),
        [{"job": id_, "document": outcome, "details": details[n % 100 > 0]} for n, id_ in enumerate(ids)],
    )


def _order(n: int) -> Order:
    name, template = f"ada/adapter-{n}", order()
    request = replace(template.request, adapter=name)
    return replace(template, job=Job(key=f"{n:032x}", what=name), request=request)
