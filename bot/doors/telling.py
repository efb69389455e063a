"""A `Progress` that also tells a comment how far the work is, at most every few seconds, and hears who calls it off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import get_args

from bot.doors.answering import Answering
from bot.doors.ground import Footing
from bot.errors import StoppedError
from bot.job import Now, Stage

ORDER = get_args(Stage)
# By the first word of what the stages say they do.
STAGES: dict[str, Stage] = {
    "Planning": "planning",
    "Examining": "planning",
    "Fetching": "fetching",
    "Reading": "fetching",
    "Dequantising": "fetching",
    "Loading": "merging",
    "Merging": "merging",
    "Checking": "validating",
    "Comparing": "validating",
    "Writing": "validating",
    "Uploading": "publishing",
}


class Telling:
    """Passes everything on to the run's own progress.

    Whoever calls may be a thread of a library that swallows what is raised: so it is raised again at each call.
    """

    def __init__(self, answering: Answering, *, ground: Footing) -> None:
        self._answering, self._inner = answering, ground.progress
        self._every, self._clock = ground.every, ground.clock
        self._now, self._told = Now(), ground.clock()
        self._stopped: StoppedError | None = None
        self._lock = threading.Lock()

    def begin(self, what: str, *, total: int) -> None:
        self._inner.begin(what, total=total)
        self._at(what, total)

    def advance(self, count: int) -> None:
        self._inner.advance(count)
        self._tell(lambda now: Now(stage=now.stage, done=now.done + count, total=now.total))

    def end(self) -> None:
        self._inner.end()

    def say(self, line: str) -> None:
        self._inner.say(line)
        self._at(line, 0)

    def _at(self, what: str, total: int) -> None:
        self._tell(lambda now: Now(stage=_later(now.stage, what), total=total))

    def _tell(self, change: Callable[[Now], Now]) -> None:
        with self._lock:
            stage, self._now = self._now.stage, change(self._now)
            passed = self._clock() - self._told
            if passed >= self._every or (self._now.stage != stage and passed >= self._every / 3):
                self._told = self._clock()
                self._listen()
            if self._stopped is not None:
                raise self._stopped

    def _listen(self) -> None:
        try:
            self._answering.tell(self._now)
        except StoppedError as error:
            self._stopped = error


def _later(stage: Stage, what: str) -> Stage:
    """The stage that these words belong to, or the one that was reached before it."""
    return max(stage, STAGES.get(what.partition(" ")[0], stage), key=ORDER.index)
