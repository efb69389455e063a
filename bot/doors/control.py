"""The queue behind a door, in the service: how a job stands there, and calling it off. Without one, comments tell."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Place(NamedTuple):
    """A thread: its host, its repository, and its number there."""

    host: str
    repository: str
    number: int


class Control(Protocol):
    """Jobs by their whole keys, of one thread: comments say which, and on GitHub whoever may push may edit those.

    States are those of `bot.jobs.order`. Raises HostError while the database is away.
    """

    def status(self, key: str, *, at: Place) -> str | None:
        """The state of the job; None when there is no such job there."""

    def newest(self, *, at: Place) -> str | None:
        """The key of the job that was asked for there last, of those that go on; None: none does."""

    def cancel(self, key: str, *, by: str, at: Place) -> str | None:
        """Calls it off, and gives its state then; one that has ended stays as it is. None: there is none there."""
