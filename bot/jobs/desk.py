"""What doors, pages and commands may do with jobs: a protocol, so that none of them knows the database or DBOS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from bot.jobs.order import Entry, Line, Order, State


class Desk(Protocol):
    """Raises HostError (`database-gone`) while the database cannot be reached."""

    def enqueue(self, order: Order) -> Entry:
        """The job, which is begun once however often it is handed in; one that has ended is begun anew."""

    def entry(self, id_: str) -> Entry | None:
        """The job of this id; an unambiguous beginning of eight digits or more will do.

        Raises InputError (`ambiguous-id`) where several jobs begin so.
        """

    def entries(  # what a list shows
        self,
        *,
        states: frozenset[State] = frozenset(),
        text: str = "",
        before: float | None = None,
        limit: int = 50,
    ) -> tuple[Entry, ...]:
        """The newest first. `text` is looked for in adapter, base, destination and who asked; `before` is for pages.

        Their outcomes are without plan, report and diagnosis, which `entry` has.
        """

    def lines(self, id_: str, *, after: int = 0, limit: int = 1000) -> tuple[Line, ...]:
        """The log behind that line."""

    def cancel(self, id_: str, *, by: str) -> Entry | None:
        """Calls it off; None when there is no such job. One that has ended stays as it is."""

    def retry(self, id_: str, *, by: str) -> Entry | None:
        """Begins an ended job anew; None when there is no such job. One that goes on stays as it is.

        Raises InputError (`unreadable-job`) for an order of another version.
        """

    def counts(self) -> Mapping[State, int]:
        """How many jobs are in which state."""
