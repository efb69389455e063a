"""One piece of work in figures: how much is done, how fast, and how long it takes."""

from __future__ import annotations

import time

from bot.wording import duration, size, span


class Piece:
    """Counts from its making on. `total` is 0 when its length is not known."""

    def __init__(self, what: str, *, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began; never 0."""
        return max(time.monotonic() - self._start, 1e-6)

    def figures(self) -> str:
        """How far it has come."""
        seconds = self.seconds
        if not self.done:
            return duration(seconds)
        rate = self.done / seconds
        if not self.total:
            return f"{size(self.done)} {size(rate)}/s"
        left = duration(max(0, self.total - self.done) / rate)
        share = min(100, int(100 * self.done / self.total))
        return f"{share}% {span(self.done, self.total)} {size(rate)}/s, {left} left"

    def line(self) -> str:
        """The same as a sentence, for where nothing moves."""
        return f"{self.what}: {'' if self.done else 'still working, '}{self.figures()}"

    def ended(self) -> str:
        """How it went."""
        seconds = self.seconds
        if self.total and not self.done:  # nothing had to be moved
            return f"{self.what}: cached"
        if not self.done:
            return f"{self.what}: done in {duration(seconds)}"
        return f"{self.what}: done, {size(self.done)} in {duration(seconds)}, {size(self.done / seconds)}/s"

    def stopped(self) -> str:
        """How far it came when something stopped it."""
        at = f" at {span(self.done, self.total) if self.total else size(self.done)}" if self.done else ""
        return f"{self.what}: stopped{at} after {duration(self.seconds)}"
