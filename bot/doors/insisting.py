"""A call that has to get through: tried again while the host stumbles, with growing pauses, up to a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bot.doors.ground import Footing
from bot.errors import HostError

T = TypeVar("T")
FIRST, LONGEST = 5.0, 60.0  # seconds of the first and the longest pause


def insisted(call: Callable[[], T], *, ground: Footing, announced: float | None = None) -> T:
    """What the call gives. Raises its HostError once the pauses make `ground.insist` seconds; other errors at once.

    `announced`: for how many seconds to wait where the host says itself when it will answer again.
    """
    pause, waited = FIRST, 0.0
    while True:
        try:
            return call()
        except HostError as error:
            step = pause if error.wait is None else error.wait
            most = ground.insist if error.wait is None or announced is None else announced
            waited += step
            if waited > most:
                raise
            ground.progress.say(f"Trying again in {step:.0f} seconds. {error.sentence}")
        ground.sleep(step)
        pause = min(pause * 2, LONGEST)
