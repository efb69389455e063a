"""The assembly line: while one shard is merged, the next is fetched and the one before it is sent.

Every stage waits for disk space and for the stage before it, so none runs ahead of the others by more than fits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from bot.shard import MergedShard, Portion
from bot.shardwise.budget import Budget, ClosedError

END = None
GRACE = 1.0  # seconds: whoever presses Ctrl-C does not wait for a shard to arrive; the process ends, and its threads


@dataclass
class Times:
    """Seconds in which each stage worked, and of the whole line."""

    fetch: float = 0.0
    merge: float = 0.0
    send: float = 0.0
    wall: float = 0.0

    @property
    def overlap(self) -> float:
        """How many stages worked at a time, in the mean: 1 is one after the other, 3 is the most."""
        return (self.fetch + self.merge + self.send) / self.wall if self.wall else 0.0


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What is done with a portion. `fetch` and `send` run in threads of their own, `merge` in the caller's.

    `drop` removes what `fetch` has brought; `send` removes what `merge` has written.
    """

    fetch: Callable[[Portion], None]
    merge: Callable[[Portion], MergedShard]
    drop: Callable[[Portion], None]
    send: Callable[[Portion, MergedShard], None]


def run(portions: Iterable[Portion], *, stages: Stages, budget: Budget) -> Times:
    """Takes every portion through the stages, in order. Raises the first error of any stage, once all have stopped.

    Space is taken by the fetching thread alone, a portion's for both its ends before the next one's: whatever waits
    for space waits for portions that have all of theirs.
    """
    line = _Line(stages, budget)
    threads = [
        threading.Thread(target=line.guarded, args=(line.fetch, list(portions)), daemon=True),
        threading.Thread(target=line.guarded, args=(line.send,), daemon=True),
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        line.merge()
    except BaseException as error:  # noqa: BLE001 - raised below, when nobody works any more
        line.fail(error)
    finally:
        line.merged.put(END)
        for thread in threads:
            thread.join(GRACE if isinstance(line.error, KeyboardInterrupt) else None)
    line.times.wall = time.monotonic() - started
    if line.error is not None:
        raise line.error
    return line.times


class _Line:
    def __init__(self, stages: Stages, budget: Budget) -> None:
        self.stages, self.budget, self.times = stages, budget, Times()
        self.fetched: queue.Queue[Portion | None] = queue.Queue()
        self.merged: queue.Queue[tuple[Portion, MergedShard] | None] = queue.Queue()
        self.error: BaseException | None = None
        self._lock = threading.Lock()

    def fail(self, error: BaseException) -> None:
        """Ends the line; the first error is told."""
        with self._lock:
            if self.error is None and not isinstance(error, ClosedError):
                self.error = error
        self.budget.close()

    def guarded(self, stage: Callable[..., None], *given: object) -> None:
        try:
            stage(*given)
        except BaseException as error:  # noqa: BLE001 - it is raised by the thread that has started the line
            self.fail(error)

    def fetch(self, portions: Iterable[Portion]) -> None:
        try:
            with suppress(ClosedError):
                for portion in portions:
                    self.budget.take(portion.fetched_bytes)
                    started = time.monotonic()
                    self.stages.fetch(portion)
                    self.times.fetch += time.monotonic() - started
                    self.budget.take(portion.written_bytes)
                    self.fetched.put(portion)
        finally:
            self.fetched.put(END)

    def merge(self) -> None:
        while (portion := self.fetched.get()) is not END and not self.budget.closed:
            started = time.monotonic()
            done = self.stages.merge(portion)
            self.stages.drop(portion)
            self.times.merge += time.monotonic() - started
            self.budget.give(portion.fetched_bytes)
            self.merged.put((portion, done))

    def send(self) -> None:
        while (item := self.merged.get()) is not END and not self.budget.closed:
            portion, done = item
            started = time.monotonic()
            self.stages.send(portion, done)
            self.times.send += time.monotonic() - started
            self.budget.give(portion.written_bytes)
