"""Telling how far a job is on a thread of its own, in an unhurried pace: a slow host slows no merge."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bot.doors.answering import Answering
from bot.doors.pace import Pace
from bot.job import Now


class Aside:
    """A context around the work, whose `tell` returns at once.

    What the answer raises over there, such as a StoppedError, `tell` raises here, at each call: whoever calls may be a
    thread of a library that swallows it. Also without a call, the answer shows a sign of life in the same pace.
    """

    def __init__(
        self, answering: Answering, *, pace: Pace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._answering, self._pace, self._clock = answering, pace, clock
        self._begun = self._told = self._looked = clock()
        self._now, self._shown = Now(), Now()
        self._raised: BaseException | None = None
        self._over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="telling", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    def tell(self, now: Now) -> None:
        with self._changed:
            if now.stage != self._now.stage:
                self._changed.notify()
            self._now = now
        if self._raised is not None:
            raise self._raised

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - raised again where the work is
                self._raised = error
                return

    def _next(self) -> Callable[[], None] | None:
        """Waits until something is due; None once the work is over."""
        with self._changed:
            while not self._over:
                at = self._clock()
                changed = self._now.stage != self._shown.stage
                edit = self._told + self._pace.between(age=at - self._begun, changed=changed) - at
                look = self._looked + self._pace.listen - at
                if edit <= 0:
                    self._told, self._looked, self._shown = at, at, self._now
                    now = self._now
                    return lambda: self._answering.tell(now)
                if look <= 0:
                    self._looked = at
                    return self._answering.look
                self._changed.wait(min(edit, look))
        return None
