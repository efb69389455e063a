"""A `Progress` that also tells an answer how far the work is, by what the stages say they do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

from bot.doors.answering import Answering
from bot.doors.aside import Aside
from bot.doors.ground import Footing
from bot.job import Now, Stage
from bot.progress import Progress

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


@contextmanager
def telling(answering: Answering, *, ground: Footing) -> Iterator[Progress]:
    """The progress of a job's work. It raises StoppedError once the job is called off."""
    if ground.pace.every == 0:
        yield Telling(answering.tell, inner=ground.progress)
        return
    with Aside(answering, pace=ground.pace) as aside:
        yield Telling(aside.tell, inner=ground.progress)


class Telling:
    """Passes everything on to `inner`, and how far the work is to `tell`."""

    def __init__(self, tell: Callable[[Now], None], *, inner: Progress) -> None:
        self._tell, self._inner = tell, inner
        self._now = Now()
        self._lock = threading.Lock()

    def begin(self, what: str, *, total: int) -> None:
        self._inner.begin(what, total=total)
        self._at(what, total)

    def advance(self, count: int) -> None:
        self._inner.advance(count)
        self._is(lambda now: Now(stage=now.stage, done=now.done + count, total=now.total))

    def end(self) -> None:
        self._inner.end()

    def say(self, line: str) -> None:
        self._inner.say(line)
        self._at(line, 0)

    def _at(self, what: str, total: int) -> None:
        self._is(lambda now: Now(stage=later(now.stage, what), total=total))

    def _is(self, change: Callable[[Now], Now]) -> None:
        with self._lock:
            self._now = change(self._now)
            self._tell(self._now)


def later(stage: Stage, what: str) -> Stage:
    """The stage that these words belong to, or the one that was reached before it."""
    return max(stage, STAGES.get(what.partition(" ")[0], stage), key=ORDER.index)
