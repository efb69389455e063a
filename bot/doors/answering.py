"""How one job is answered where it was asked for: a protocol, which each host implements with its own comments."""

from __future__ import annotations

from typing import Protocol

from bot.job import Now, Outcome


class Answering(Protocol):
    """One job's answer. After a restart it is made anew from the job: the same run takes over what it has said."""

    @property
    def note(self) -> str:
        """What kept us from answering, in a sentence; empty when nothing did. The work goes on without."""

    def begin(self) -> str | None:
        """Says that the job is queued; twice is as good as once. The answer is where the same is being done already.

        Raises HostError when the host is at fault.
        """

    def tell(self, now: Now) -> None:
        """Shows how far the job is. Raises StoppedError when somebody has called it off; faults of the host pass by."""

    def look(self) -> None:
        """Looks whether somebody has called it off, and then raises StoppedError; faults of the host pass by."""

    def check(self) -> None:
        """The last look before publishing: raises StoppedError, RefusedError or HostError when it is not to be."""

    def end(self, outcome: Outcome) -> None:
        """The last words; twice is as good as once. Raises nothing: `note` has what went wrong."""
