"""What work tells of itself on its way to those who wait for it: into the ledger, and to where they asked."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from bot.doors.answering import Answering
from bot.doors.pace import Pace
from bot.errors import HostError, MergeBotError, StoppedError
from bot.job import Now, Stage
from bot.jobs.closing import is_elsewhere
from bot.jobs.ledger import Ledger
from bot.jobs.order import Entry
from bot.jobs.teller import Teller

PAUSE = 0.5  # seconds between two looks at what there is to tell
log = logging.getLogger("bot.jobs")

Answers = Callable[[Entry], Answering]


class Reporter:
    """For as long as a step runs. `tell` and `log` are called in the event loop's thread, and return at once.

    `jobs` gives those who wait, which may become more; `stop` hears who was called off where it was asked for,
    and `took` how many seconds each stage was.
    """

    def __init__(
        self,
        jobs: Callable[[], Sequence[Entry]],
        *,
        ledger: Ledger,
        answers: Answers,
        stop: Callable[[Entry, StoppedError], None],
        took: Callable[[Stage, float], None],
        pace: Pace | None = None,
    ) -> None:
        self._jobs, self._ledger, self._answers, self._stop = jobs, ledger, answers, stop
        self._took, self._entered = took, time.monotonic()
        self._now = Now()
        self._lines: list[str] = []
        self._tellers: dict[str, Teller] = {}
        self._threads: dict[str, Answering | None] = {}
        self._edited: dict[str, tuple[float, Stage]] = {}
        self._pace, self._since = pace or Pace(), time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def tell(self, now: Now) -> None:
        if now.stage != self._now.stage:
            self._leave()
        self._now = now

    def _leave(self) -> None:
        """The stage is over."""
        now = time.monotonic()
        self._took(self._now.stage, now - self._entered)
        self._entered = now

    def log(self, line: str) -> None:
        if line:
            self._lines.append(line)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leave()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await asyncio.shield(asyncio.to_thread(self._pass_on, self._taken()))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PAUSE)
            await asyncio.shield(asyncio.to_thread(self._pass_on, self._taken(), edits=True))

    def _taken(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines

    def _pass_on(self, lines: list[str], *, edits: bool = False) -> None:
        """What is lost here while the database or a host is away is a line or a figure, and no result."""
        now = self._now
        try:
            for entry in self._jobs():
                id_ = entry.order.job.key
                self._ledger.write(id_, lines)
                self._teller(entry)(now)
                if edits:
                    self._edit(entry, now)
        except HostError as error:
            log.warning("progress is not told: %s", error.sentence)

    def _teller(self, entry: Entry) -> Teller:
        id_ = entry.order.job.key
        return self._tellers.setdefault(id_, Teller(self._ledger, id_, entry.attempt))

    def _edit(self, entry: Entry, now: Now) -> None:
        id_, at = entry.order.job.key, time.monotonic()
        edited, stage = self._edited.setdefault(id_, (self._since, now.stage))
        if at - edited < self._pace.between(age=at - self._since, changed=stage != now.stage):
            return
        self._edited[id_] = at, now.stage
        try:
            if id_ not in self._threads:
                self._threads[id_] = None
                made = self._answers(entry)
                made.begin()
                self._threads[id_] = made
            thread = self._threads[id_]
            if thread is not None:
                thread.tell(now)
                self._end_again(entry, thread)
        except StoppedError as error:
            self._stop(entry, error)
        except MergeBotError as error:
            log.warning("progress is not shown: %s", error.sentence)

    def _end_again(self, entry: Entry, thread: Answering) -> None:
        """Where the last word was said while a slow host still took an edit, that edit has covered it."""
        fresh = self._ledger.entry(entry.order.job.key)
        outcome = fresh.outcome if fresh is not None and fresh.attempt == entry.attempt else None
        if outcome is not None and not is_elsewhere(outcome):
            thread.end(outcome)
