"""What a merge on a rented machine tells of itself: JSON in the lines of its log, spoken there and heard here.

`{"now": ["merging", 10, 40]}` is how far it is, `{"say": "…"}` a line for people, `{"gate": 1}` the question whether it
may publish, `{"end": [1, 3, "…"]}` the first of three pieces of the outcome, which is compressed: a log may cut long
lines. Every other line is for people, too.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from bot.doors.telling import later
from bot.job import Now, Outcome
from bot.serial import from_dict, to_json

PIECE = 4000  # characters of a line
LONGEST = 64 * 2**20  # bytes of an outcome; what claims more is none
EVERY = 2.0  # seconds between two lines about the same stage


class Speaking:
    """A `Progress` that prints such lines. Its methods may be called from several threads."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream or sys.stdout, clock
        self._lock = threading.Lock()
        self._now, self._told = Now(), 0.0

    def begin(self, what: str, *, total: int) -> None:
        self.say(what)
        self._tell(Now(stage=self._now.stage, total=total), always=True)

    def advance(self, count: int) -> None:
        now = self._now
        self._tell(Now(stage=now.stage, done=now.done + count, total=now.total))

    def end(self) -> None:
        """The next piece, or the outcome, says so."""

    def say(self, line: str) -> None:
        stage = later(self._now.stage, line)
        self._print({"say": line})
        if stage != self._now.stage:
            self._tell(Now(stage=stage), always=True)

    def ask(self) -> None:
        """Whether it may publish; the answer comes by another way."""
        self._print({"gate": 1})

    def outcome(self, outcome: Outcome) -> None:
        """The last words."""
        for line in pieces(outcome):
            self._print(line)

    def _tell(self, now: Now, *, always: bool = False) -> None:
        self._now = now
        if always or self._clock() - self._told >= EVERY:
            self._told = self._clock()
            self._print({"now": [now.stage, now.done, now.total]})

    def _print(self, event: dict[str, Any]) -> None:
        with self._lock:
            print(json.dumps(event), file=self._stream, flush=True)


class Heard:
    """Listens to the lines of one log. `outcome` is None until all of its pieces were heard.

    `asks`: whether it has asked if it may publish.
    """

    def __init__(self, *, tell: Callable[[Now], None], log: Callable[[str], None]) -> None:
        self._tell, self._log = tell, log
        self.asks = False
        self._pieces: dict[int, str] = {}
        self._count = 0

    def line(self, text: str) -> None:
        """The next line. One that is not as it should be is passed on as it is."""
        try:
            event = json.loads(text)
            if "now" in event:
                stage, done, total = event["now"]
                self._tell(from_dict(Now, {"stage": stage, "done": done, "total": total}))
            elif "say" in event:
                self._log(str(event["say"]))
            elif "gate" in event:
                self.asks = True
            else:
                number, self._count, piece = event["end"]
                self._pieces[int(number)] = str(piece)
        except (ValueError, TypeError, KeyError, RecursionError):
            self._log(text)

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None when the log does not say, or not all of it."""
        if not self._pieces or len(self._pieces) != self._count:
            return None
        try:
            packed = base64.b85decode("".join(self._pieces[n] for n in sorted(self._pieces)))
            data = zlib.decompressobj().decompress(packed, LONGEST)
            return from_dict(Outcome, json.loads(data))
        except (ValueError, TypeError, KeyError, RecursionError, zlib.error, binascii.Error):
            return None


def pieces(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """The outcome as lines."""
    text = base64.b85encode(zlib.compress(to_json(outcome).encode(), 9)).decode()
    parts = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    for number, part in enumerate(parts, 1):
        yield {"end": [number, len(parts), part]}
