"""Telling aside: a slow host slows no work, and an hour of it takes few requests."""

from __future__ import annotations

import threading
import time

import pytest

from bot.doors.aside import Aside
from bot.doors.pace import Pace
from bot.errors import StoppedError
from bot.job import Now

QUICK = Pace(every=0.02, eager=60.0, later=0.02, listen=0.02)


class Answer:
    """Writes down what it is told; `slow` holds it up."""

    note = ""

    def __init__(self):
        self.told, self.looks = [], 0
        self.slow, self.error = threading.Event(), None
        self.slow.set()

    def tell(self, now):
        self.slow.wait(20)
        self.told.append(now)
        if self.error is not None:
            raise self.error

    def look(self):
        self.looks += 1


def until(done):
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_host_that_hangs_holds_up_no_work():
    answer = Answer()
    answer.slow.clear()
    with Aside(answer, pace=QUICK) as aside:
        time.sleep(0.1)  # it is hanging in an edit by now
        began = time.monotonic()
        for n in range(1000):
            aside.tell(Now(stage="merging", done=n, total=1000))
        assert time.monotonic() - began < 1
        assert answer.told == []
        answer.slow.set()
        until(lambda: Now(stage="merging", done=999, total=1000) in answer.told)


def test_whoever_calls_off_is_heard_at_every_call_from_then_on():
    answer = Answer()
    with Aside(answer, pace=QUICK) as aside:
        answer.error = StoppedError("Called off.", advice="-", code="cancelled")
        with pytest.raises(StoppedError):
            until(lambda: aside.tell(Now(stage="merging")))
        told = len(answer.told)
        for _ in range(2):
            with pytest.raises(StoppedError):
                aside.tell(Now(stage="merging"))
    assert len(answer.told) == told


def test_work_that_says_nothing_shows_signs_of_life():
    answer = Answer()
    with Aside(answer, pace=QUICK):
        until(lambda: len(answer.told) > 3)
    after = len(answer.told)
    time.sleep(0.1)
    assert len(answer.told) == after


def test_an_hour_takes_a_quarter_of_what_a_workflows_token_has():
    """The real pace, two thousand times as fast."""
    real, answer, fast = Pace(), Answer(), 2000
    pace = Pace(**{name: seconds / fast for name, seconds in vars(real).items()})
    with Aside(answer, pace=pace):
        time.sleep(3600 / fast)
    edits = len(answer.told)
    assert 30 < edits < 80
    assert 2 * edits + answer.looks < 250
