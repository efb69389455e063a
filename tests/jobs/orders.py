"""Orders as the doors make them."""

from __future__ import annotations

from hashlib import sha256

from bot.job import Failure, Job, Outcome
from bot.jobs.order import Order, Origin
from bot.request import Destination, MergeRequest

PUBLISHED = Outcome(ended="published", seconds=2.5, public=True)
REFUSED = Outcome(
    ended="refused",
    failure=Failure(code="no-base", sentence="It names no base.", advice="Name it.", exit_code=3),
)


def order(name: str = "ada/adapter", *, by: str = "ada", to: str = "ada/merged", **origin: object) -> Order:
    key = sha256(f"{name} {by} {to}".encode()).hexdigest()[:32]
    place = Origin(**{"host": "github", "repository": "acme/models", "number": 7, **origin})
    request = MergeRequest(
        adapter=name,
        base="acme/base",
        destination=Destination(kind="repository", location=to),
        requested_by=by,
    )
    return Order(job=Job(key=key, what=name, asked_by=by, ask="/merge"), request=request, origin=place)
