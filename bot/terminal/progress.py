"""Progress on stderr: bars on a terminal, plain lines every few seconds everywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from bot.terminal.text import clean, duration, size, span

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def shown(*, plain: bool) -> Iterator[Lines | Bars]:
    """A `bot.progress.Progress` for this run: bars when stderr is a terminal and `plain` is not asked for."""
    console = Console(stderr=True)
    # FORCE_COLOR makes rich take a log file for a terminal: bars there would be a mess, so the stream is asked too.
    bars = sys.stderr.isatty() and console.is_terminal and not console.is_dumb_terminal and not plain
    progress: Lines | Bars = Bars(console) if bars else Lines(sys.stderr)
    try:
        yield progress
    finally:
        progress.close()


class Lines:
    """One line when a piece begins, one every `every` seconds, one when it ends; a thread keeps the beat.

    The thread, and not `advance`, writes the lines in between: a piece that hangs must not fall silent.
    """

    def __init__(self, stream: TextIO, *, every: float = SECONDS_BETWEEN_LINES) -> None:
        self._stream = stream
        self._every = every
        self._lock = threading.Lock()
        self._piece: _Piece | None = None
        self._stop = threading.Event()

    def begin(self, what: str, *, total: int) -> None:
        self.end()
        self._piece = _Piece(clean(what), total=total)
        self.say(f"{self._piece.what}: started{f', {size(total)}' if total else ''}")
        self._stop = threading.Event()
        threading.Thread(target=self._beat, args=(self._piece, self._stop), daemon=True).start()

    def advance(self, count: int) -> None:
        with self._lock:
            if self._piece:
                self._piece.done += count

    def end(self) -> None:
        piece = self._piece
        self.close()
        if piece:
            self.say(piece.ended())

    def say(self, line: str) -> None:
        with self._lock:
            self._write(line)

    def close(self) -> None:
        """Stops telling, in the middle of a piece too."""
        self._stop.set()
        with self._lock:
            self._piece = None

    def _beat(self, piece: _Piece, stop: threading.Event) -> None:
        while not stop.wait(self._every):
            with self._lock:
                if self._piece is piece:  # it may have ended while we waited for the lock
                    self._write(piece.line())

    def _write(self, line: str) -> None:
        with suppress(OSError):  # a reader who left must not stop the work
            print(clean(line), file=self._stream, flush=True)


class _Piece:
    """One piece of work in figures."""

    def __init__(self, what: str, *, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self._start = time.monotonic()

    def line(self) -> str:
        seconds = self._seconds()
        if not self.done:
            return f"{self.what}: still working, {duration(seconds)}"
        rate = self.done / seconds
        if not self.total:
            return f"{self.what}: {size(self.done)} {size(rate)}/s"
        left = duration(max(0, self.total - self.done) / rate)
        share = min(100, int(100 * self.done / self.total))
        return f"{self.what}: {share}% {span(self.done, self.total)} {size(rate)}/s, {left} left"

    def ended(self) -> str:
        seconds = self._seconds()
        figures = f" {size(self.done)}" if self.done else ""
        rate = f" {size(self.done / seconds)}/s" if self.done else ""
        return f"{self.what}: done,{figures} in {duration(seconds)}{rate}"

    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-6)


class Bars:
    """A bar for each piece: bytes, rate, time left; a spinner where the length is not known."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
        )
        self._task: TaskID | None = None

    def begin(self, what: str, *, total: int) -> None:
        self.end()
        self._bars.start()
        self._task = self._bars.add_task(clean(what), total=total or None)

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bars.advance(self._task, count)

    def end(self) -> None:
        if self._task is not None:
            done = self._bars.tasks[self._task].completed
            self._bars.update(self._task, total=done or 1, completed=done or 1)
        self._task = None

    def say(self, line: str) -> None:
        self._bars.console.print(clean(line), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the bars as they are and gives the terminal back."""
        self._bars.stop()
