"""How far a step is, made of what its stages report, for whoever shows it."""

from __future__ import annotations

from dataclasses import replace

from bot.doors.telling import later
from bot.job import Now
from bot.jobs.runners.runner import Log, Tell


class Meter:
    """A `bot.progress.Progress` that tells the whole each time it changes, and logs a line for each piece."""

    def __init__(self, *, tell: Tell, log: Log) -> None:
        self._tell, self._log = tell, log
        self._now = Now()

    def begin(self, what: str, *, total: int) -> None:
        self._log(what)
        self._is(Now(stage=later(self._now.stage, what), total=total))

    def advance(self, count: int) -> None:
        self._is(replace(self._now, done=self._now.done + count))

    def end(self) -> None:
        self._is(replace(self._now, done=self._now.total))

    def say(self, line: str) -> None:
        self._log(line)
        self._is(Now(stage=later(self._now.stage, line)))

    def _is(self, now: Now) -> None:
        self._now = now
        self._tell(now)
