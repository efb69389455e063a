"""Orders and outcomes ↔ what is written into the tables. No token goes in."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Row

from bot.job import Now, Outcome
from bot.jobs.order import Entry, Order
from bot.secret_text import masked, masked_all
from bot.serial import as_dict, from_dict

DETAILS = ("plan", "report", "diagnosis")  # of an outcome: far too much for a list


def of_order(order: Order) -> dict[str, Any]:
    """What the row of a job says of its order."""
    return {
        "id": order.job.key,
        "host": order.origin.host,
        "requester": requester(order),
        "search": _search(order),
    }


def requester(order: Order) -> str:
    """Whose quota it counts against: `github:ada`. The pages know people by their name on the Hub."""
    host = {"page": "hub"}.get(order.origin.host, order.origin.host)
    return plain(f"{host}:{order.job.asked_by or order.origin.repository.partition('/')[0]}")


def document(record: Order | Outcome) -> str:
    """The record as JSON; of an outcome what a list shows."""
    if isinstance(record, Outcome):
        record = replace(record, plan=None, report=None, diagnosis=None)
    return json.dumps(masked_all(as_dict(record)))


def details(outcome: Outcome) -> str:
    """The rest of an outcome as JSON."""
    return json.dumps(masked_all({name: asdict(r) for name in DETAILS if (r := getattr(outcome, name))}))


def entry(row: Row[Any]) -> Entry:
    """The job of a row that has `order`, and `outcome` and `details` if it is to have them."""
    outcome = json.loads(row.outcome) if row.outcome else None
    if outcome and row.details:
        outcome |= json.loads(row.details)
    return Entry(
        order=from_dict(Order, json.loads(row.order)),
        state=row.state,
        now=Now(stage=row.stage, done=row.done, total=row.total),
        attempt=row.attempt,
        make=row.make,
        runner=row.runner,
        worker=row.worker,
        created=row.created,
        started=row.started,
        ended=row.ended,
        outcome=from_dict(Outcome, outcome) if outcome else None,
    )


def plain(text: str) -> str:
    """The text as every database takes it, without tokens."""
    return masked(text).replace("\0", "").encode("utf-8", "replace").decode()


def _search(order: Order) -> str:
    request = order.request
    to = request.destination.location if request.destination else ""
    named = (order.job.what, request.adapter, *request.further, request.base or "", to, order.job.asked_by)
    return plain("\n".join(dict.fromkeys(named)).lower())
