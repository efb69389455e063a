"""A `bot.progress.Progress` over a pipe: `Piped` tells it, `replay` hears it on the other side."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from bot.isolation import exchange
from bot.progress import Progress

EVERY = 0.05  # seconds between two reports of progress


class Piped:
    """Tells the other side."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._lock = pipe, threading.Lock()
        self._count, self._last = 0, 0.0

    def begin(self, what: str, *, total: int) -> None:
        self.tell(begin=what, total=total)

    def advance(self, count: int) -> None:
        with self._lock:
            self._count += count
        if time.monotonic() - self._last > EVERY:
            self.tell()

    def end(self) -> None:
        self.tell(end=True)

    def say(self, line: str) -> None:
        self.tell(say=line)

    def tell(self, **event: Any) -> None:
        """Sends one event, and before it what has been counted."""
        with self._lock:
            events = [{"advance": self._count}] if self._count else []
            self._count, self._last = 0, time.monotonic()
            for each in (*events, *([event] if event else [])):
                _write(self._pipe, exchange.dumps(each))


def replay(event: dict[str, Any], progress: Progress) -> None:
    """Passes on one event of `Piped`; those that are no progress are left to whoever knows them."""
    if "advance" in event:
        progress.advance(event["advance"])
    elif "begin" in event:
        progress.begin(event["begin"], total=event["total"])
    elif "end" in event:
        progress.end()
    elif "say" in event:
        progress.say(event["say"])


def _write(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]
