"""The queue behind a door, in the service: how a job stands there, and calling it off. Without one, comments tell."""

from __future__ import annotations

from typing import Protocol


class Control(Protocol):
    """Jobs by their keys. States are those of `bot.jobs.order`. Raises HostError while the database is away."""

    def status(self, key: str) -> str | None:
        """The state of the job; None when there is no such job."""

    def cancel(self, key: str, *, by: str) -> str | None:
        """Calls it off, and gives its state then; one that has ended stays as it is. None: there is no such job."""
