"""How long work tells of itself. The stages report here; `bot.terminal` shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by a stage as its work goes on."""

    def begin(self, what: str, *, total: int) -> None:
        """A piece of work of `total` bytes starts (0: length unknown)."""

    def advance(self, count: int) -> None:
        """`count` more bytes of the current piece are done."""

    def end(self) -> None:
        """The current piece is done; if it never advanced, everything was there. A piece that fails is not ended."""

    def say(self, line: str) -> None:
        """One line for the reader that is no error."""


class Silent:
    """A `Progress` that shows nothing."""

    def begin(self, what: str, *, total: int) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self) -> None: ...

    def say(self, line: str) -> None: ...
