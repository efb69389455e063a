"""Disk space as something that is taken and given back: whoever wants more than there is waits."""

from __future__ import annotations

import threading


class ClosedError(Exception):
    """Nobody gets space any more: the work ends."""


class Budget:
    """So many bytes of disk for all who work on one merge. `peak`: the most that was taken at any time.

    There is no deadlock as long as one thread alone takes, and what it has taken before is given back without it.
    """

    def __init__(self, total: int) -> None:
        self.total, self.peak = total, 0
        self._taken, self._closed = 0, False
        self._news = threading.Condition()

    def take(self, size: int) -> None:
        """Waits until there is as much. Raises ClosedError once it is closed."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._taken + size <= self.total)
            if self._closed:
                raise ClosedError
            self._taken += size
            self.peak = max(self.peak, self._taken)

    def give(self, size: int) -> None:
        """Gives back what was taken."""
        with self._news:
            self._taken -= size
            self._news.notify_all()

    def close(self) -> None:
        """Wakes whoever waits."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    @property
    def closed(self) -> bool:
        """Whether the work ends."""
        return self._closed
