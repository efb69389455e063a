"""Progress on stderr: a bar on a terminal, plain lines every few seconds everywhere else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from bot.terminal.piece import Piece
from bot.terminal.text import clean
from bot.wording import size

SECONDS_BETWEEN_LINES = 5.0
# Of the time that a piece has taken, up to a minute: a log of hours need not have a line every 5 seconds.
SHARE, LONGEST = 1 / 4, 60.0
BAR = 40  # cells at most


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
    """One line when a piece begins, one every `every` seconds (rarer in a long piece), one when it ends.

    The thread, and not `advance`, writes the lines in between: a piece that hangs must not fall silent.
    """

    def __init__(self, stream: TextIO, *, every: float = SECONDS_BETWEEN_LINES) -> None:
        self._stream = stream
        self._every = every
        self._lock = threading.Lock()
        self._piece: Piece | None = None
        self._stop = threading.Event()

    def begin(self, what: str, *, total: int) -> None:
        self.end()
        self._piece = Piece(clean(what), total=total)
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
        """Stops telling, in the middle of a piece too: the error that follows says what stopped it."""
        self._stop.set()
        with self._lock:
            self._piece = None

    def _beat(self, piece: Piece, stop: threading.Event) -> None:
        while not stop.wait(max(self._every, min(LONGEST, SHARE * piece.seconds))):
            with self._lock:
                if self._piece is piece:  # it may have ended while we waited for the lock
                    self._write(piece.line())

    def _write(self, line: str) -> None:
        with suppress(OSError):  # a reader who left must not stop the work
            print(clean(line), file=self._stream, flush=True)


class Bars:
    """A bar for the piece at hand, or a spinner where its length is not known.

    It gives way to one line when the piece is over, so that everything stands in the order in which it happened.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._piece: Piece | None = None
        self._bar: Progress | None = None

    def begin(self, what: str, *, total: int) -> None:
        self.end()
        piece = self._piece = Piece(clean(what), total=total)
        # On one line, whatever its width: the bar gives way first, then name and figures are cut.
        name = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
        bar = [BarColumn(bar_width=None, table_column=Column(max_width=BAR))] if total else []
        self._bar = Progress(
            SpinnerColumn(), name, *bar, _Figures(piece), console=self._console, transient=True
        )
        self._bar.add_task(piece.what, total=total or None)
        self._bar.start()

    def advance(self, count: int) -> None:
        with self._lock:
            if self._piece and self._bar:
                self._piece.done += count
                self._bar.update(self._bar.task_ids[0], completed=self._piece.done)

    def end(self) -> None:
        if piece := self._over():
            self._print(f"✓ {piece.ended()}")

    def say(self, line: str) -> None:
        self._print(clean(line))

    def close(self) -> None:
        """Gives the terminal back. A piece that has not ended by now was stopped, and is not shown as done."""
        if piece := self._over():
            self._print(f"✗ {piece.stopped()}")

    def _over(self) -> Piece | None:
        with self._lock:
            piece, bar, self._piece, self._bar = self._piece, self._bar, None, None
        if bar:
            bar.stop()
        return piece

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Figures(ProgressColumn):
    """The piece's own figures: the same words as where there are no bars."""

    def __init__(self, piece: Piece) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._piece = piece

    def render(self, task: Task) -> Text:
        del task  # the piece knows
        return Text(self._piece.figures(), style="progress.data.speed")
