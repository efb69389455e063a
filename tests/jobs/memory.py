"""A `Desk` that keeps its jobs in memory: for tests of pages and doors, which know no more of jobs than the protocol.

What the service's workers would do to a job is done by hand: `begin`, `tell`, `write`, `end`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from bot.errors import InputError
from bot.job import Now, Outcome
from bot.jobs.order import ACTIVE, Entry, Line, Order, State

SHORTEST = 8


@dataclass
class MemoryDesk:
    jobs: dict[str, Entry] = field(default_factory=dict)
    log: dict[str, list[Line]] = field(default_factory=dict)
    clock: float = 0.0

    def enqueue(self, order: Order) -> Entry:
        known = self.jobs.get(order.job.key)
        if known and known.state in ACTIVE:
            return known
        attempt = known.attempt + 1 if known else 1
        return self._keep(Entry(order=order, now=Now(), attempt=attempt, created=self._time()))

    def entry(self, id_: str) -> Entry | None:
        found = [id_] if id_ in self.jobs else []
        if not found and len(id_) >= SHORTEST:
            found = [key for key in self.jobs if key.startswith(id_)]
        if len(found) > 1:
            raise InputError(
                f"{len(found)} jobs begin with {id_}.", advice="Write more of the id.", code="ambiguous-id"
            )
        return self.jobs[found[0]] if found else None

    def entries(
        self,
        *,
        states: frozenset[State] = frozenset(),
        text: str = "",
        before: float | None = None,
        limit: int = 50,
    ) -> tuple[Entry, ...]:
        newest = sorted(self.jobs.values(), key=lambda entry: -entry.created)
        found = [
            _short(entry)
            for entry in newest
            if (not states or entry.state in states)
            and (before is None or entry.created < before)
            and text.lower() in _text(entry.order)
        ]
        return tuple(found[:limit])

    def lines(self, id_: str, *, after: int = 0, limit: int = 1000) -> tuple[Line, ...]:
        entry = self.entry(id_)
        kept = self.log.get(entry.order.job.key, []) if entry else []
        return tuple(line for line in kept if line.number > after)[:limit]

    def cancel(self, id_: str, *, by: str) -> Entry | None:
        entry = self.entry(id_)
        if entry is None or entry.state not in {"queued", "running"}:
            return entry
        self.write(entry.order.job.key, f"Cancelled by {by}.")
        return self._keep(replace(entry, state="cancelling"))

    def retry(self, id_: str, *, by: str) -> Entry | None:
        entry = self.entry(id_)
        if entry is None or entry.state in ACTIVE:
            return entry
        self.write(entry.order.job.key, f"Begun anew by {by}.")
        return self.enqueue(entry.order)

    def counts(self) -> Mapping[State, int]:
        states = [entry.state for entry in self.jobs.values()]
        return {state: states.count(state) for state in get_args(State)}

    def begin(self, id_: str, *, worker: str = "test-0") -> Entry:
        return self._keep(replace(self.jobs[id_], state="running", started=self._time(), worker=worker))

    def tell(self, id_: str, now: Now) -> Entry:
        return self._keep(replace(self.jobs[id_], now=now))

    def write(self, id_: str, text: str) -> Line:
        kept = self.log.setdefault(id_, [])
        kept.append(Line(number=len(kept) + 1, at=self._time(), text=text))
        return kept[-1]

    def end(self, id_: str, outcome: Outcome) -> Entry:
        return self._keep(replace(self.jobs[id_], state=outcome.ended, ended=self._time(), outcome=outcome))

    def _keep(self, entry: Entry) -> Entry:
        self.jobs[entry.order.job.key] = entry
        return entry

    def _time(self) -> float:
        """No two the same, so that pages break between jobs."""
        self.clock = max(time.time(), self.clock + 1e-6)
        return self.clock


def _short(entry: Entry) -> Entry:
    """As in a list, where plan, report and diagnosis would be far too much."""
    if entry.outcome is None:
        return entry
    return replace(entry, outcome=replace(entry.outcome, plan=None, report=None, diagnosis=None))


def _text(order: Order) -> str:
    request = order.request
    to = request.destination.location if request.destination else ""
    named = (order.job.what, request.adapter, *request.further, request.base or "", to, order.job.asked_by)
    return "\n".join(named).lower()
