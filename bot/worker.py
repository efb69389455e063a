"""The worker's side: sealed first, then one job after the other, from stdin, with answers to a pipe of its own.

Started by `bot.isolation.room`, never by hand. A job is a function by its name, with its arguments.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from importlib import import_module
from typing import Any

from bot.isolation import exchange, seal
from bot.terminal import quiet

EVERY = 0.05  # seconds between two reports of progress


class Piped:
    """A `bot.progress.Progress` that tells the other side."""

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


def main() -> None:
    """Works until stdin ends."""
    pipe = int(sys.argv[1])
    hello = exchange.loads(sys.stdin.buffer.readline())
    isolation = seal.seal(parent=hello["parent"], masks=hello["masks"], walls=hello["walls"])
    progress = Piped(pipe)
    progress.tell(ready=isolation)
    with quiet.libraries(hello["verbosity"]):
        for module in hello["ahead"]:
            import_module(module)
        for line in sys.stdin.buffer:
            _work(line, progress)
            gc.collect()


def _work(line: bytes, progress: Piped) -> None:
    try:
        job = exchange.loads(line)
        module, _, function = job["job"].partition(":")
        call = getattr(import_module(module), function)
        progress.tell(begun=True)
        named = job["named"] | ({"progress": progress} if job["progress"] else {})
        seal.limit(memory=job["memory"], file=job["file"])
        try:
            result = call(*job["given"], **named)
        finally:
            seal.limit(memory=None, file=None)
        progress.tell(done=result)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - it is raised on the other side
        progress.tell(failed=exchange.failure(error, trace=traceback.format_exc()))


def _write(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]
