"""Orders and outcomes ↔ what is written into the tables. No token goes in."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Row

from bot.doors.work import failed
from bot.job import Job, Now, Outcome
from bot.jobs.order import Entry, Order, Origin, unreadable
from bot.request import MergeRequest
from bot.secret_text import masked, masked_all
from bot.serial import as_dict, from_dict

# What a document that another version wrote, or that is damaged, makes `json` and `from_dict` raise.
BROKEN = (ValueError, TypeError, KeyError, AttributeError)
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
    origin = order.origin
    return plain(f"{host}:{order.job.asked_by or origin.author or origin.repository.partition('/')[0]}")


def document(record: Order | Outcome) -> str:
    """The record as JSON; of an outcome what a list shows."""
    if isinstance(record, Outcome):
        record = replace(record, plan=None, report=None, diagnosis=None)
    return json.dumps(masked_all(as_dict(record)))


def details(outcome: Outcome) -> str:
    """The rest of an outcome as JSON."""
    return json.dumps(masked_all({name: asdict(r) for name in DETAILS if (r := getattr(outcome, name))}))


def entry(row: Row[Any]) -> Entry:
    """The job of a row that has `order`, and `outcome` and `details` if it is to have them.

    One that cannot be read is shown all the same: it must not keep others from being seen, or done.
    """
    order, outcome = _order(row), _outcome(row)
    if order is None and outcome is None:
        outcome = failed(unreadable())
    return Entry(
        order=order or _nothing_but(row.id),
        state=row.state,
        now=Now(stage=row.stage, done=row.done, total=row.total),
        attempt=row.attempt,
        make=row.make,
        runner=row.runner,
        worker=row.worker,
        created=row.created,
        started=row.started,
        ended=row.ended,
        outcome=outcome,
        readable=order is not None,
    )


def _order(row: Row[Any]) -> Order | None:
    try:
        return from_dict(Order, json.loads(row.order))
    except BROKEN:
        return None


def _outcome(row: Row[Any]) -> Outcome | None:
    if not row.outcome:
        return None
    try:
        details = json.loads(row.details) if row.details else {}
        return from_dict(Outcome, json.loads(row.outcome) | details)
    except BROKEN:
        return replace(failed(unreadable()), ended=row.state)


def _nothing_but(id_: str) -> Order:
    return Order(job=Job(key=id_, what="?"), request=MergeRequest(adapter="?"), origin=Origin(host="cli"))


def plain(text: str) -> str:
    """The text as every database takes it, without tokens."""
    return masked(text).replace("\0", "").encode("utf-8", "replace").decode()


def _search(order: Order) -> str:
    request = order.request
    to = request.destination.location if request.destination else ""
    named = (order.job.what, request.adapter, *request.further, request.base or "", to, order.job.asked_by)
    return plain("\n".join(dict.fromkeys(named)).lower())
