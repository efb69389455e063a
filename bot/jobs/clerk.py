"""What was delivered, one after the other: a door decides what it asks for, and puts that in line.

A delivery is finished once its door has decided; until then it is given out again, after a crash, too. What comes of
doing that twice is what comes of it once: jobs are known by their keys, and an ended one by the run that asked for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress

from bot.errors import HostError, MergeBotError
from bot.jobs.inbox import Delivery, Inbox
from bot.log import about

AT_ONCE = 4
EVERY = 0.5  # seconds between two looks into an empty inbox
LEASE = 300.0  # seconds after which a delivery that a host's fault has kept from being decided is tried again
log = logging.getLogger("bot.jobs")

Door = Callable[[Delivery], tuple[str, ...]]  # what there is to say; may block
PlaceOf = Callable[[Delivery], Hashable | None]  # the thread that it comes from, if it comes from one


def _anywhere(_: Delivery) -> None:
    """No order matters."""


class Clerk:
    """Reads the inbox in threads of its own. `doors`: by a delivery's source.

    What has the same `place` is decided in the order in which it came: `/merge`, and then `/merge cancel`. While one
    waits to be tried again, those behind it wait, too.
    """

    def __init__(self, inbox: Inbox, doors: Mapping[str, Door], *, place: PlaceOf = _anywhere) -> None:
        self._inbox, self._doors, self._place = inbox, dict(doors), place
        self._late: dict[str, tuple[Hashable, float]] = {}  # in order: place, when put off
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clerk", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def alive(self) -> bool:
        """Whether somebody reads."""
        return self._thread.is_alive()

    def stop(self, *, seconds: float | None = None) -> None:
        """Finishes what it has begun, and no more; waits so long for that. What is left is given out again."""
        self._stop.set()
        self._thread.join(timeout=seconds)

    def _run(self) -> None:
        going: dict[Future[None], Hashable | None] = {}  # the oldest first
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="door") as pool:
            while not self._stop.is_set():
                going = {each: place for each, place in going.items() if not each.done()}
                if taken := self._taken(AT_ONCE - len(going)):
                    for each in taken:
                        place = self._placed(each)
                        before = [f for f, there in going.items() if place is not None and there == place]
                        going[pool.submit(self._see_to, each, place, before[-1:])] = place
                elif len(going) == AT_ONCE:
                    wait(going, timeout=EVERY, return_when=FIRST_COMPLETED)
                else:
                    self._stop.wait(EVERY)

    def _taken(self, most: int) -> tuple[Delivery, ...]:
        try:
            return self._inbox.take(limit=most, lease=LEASE) if most else ()
        except HostError as error:
            log.warning("the inbox is not read: %s", error.sentence)
        except Exception:  # whatever it was, the next look may do better
            log.exception("the inbox is not read")
        return ()

    def _placed(self, delivery: Delivery) -> Hashable | None:
        with suppress(Exception):  # its door says what is wrong with it
            return self._place(delivery)
        return None

    def _see_to(self, delivery: Delivery, place: Hashable | None, before: Sequence[Future[None]]) -> None:
        """Decides it and finishes it by itself: a slow one keeps only those of its place from being finished."""
        wait(before)
        decided: bool | None = False
        with about(delivery=delivery.key):
            try:
                decided = self._is_next(delivery, place) and self._decided(delivery)
                if decided:
                    self._inbox.finish([delivery.key])
            except HostError as error:
                log.warning("a delivery comes again: %s", error.sentence)
            except Exception:
                log.exception("a delivery comes again")
        if decided is not False:
            self._late.pop(delivery.key, None)
        elif place is not None:
            self._late[delivery.key] = place, time.monotonic()

    def _is_next(self, delivery: Delivery, place: Hashable | None) -> bool:
        """False: what came before it from there comes again, unless another process has seen to that by now."""
        for key, (there, at) in tuple(self._late.items()):
            if key == delivery.key:
                return True
            if time.monotonic() - at > 2 * LEASE:
                self._late.pop(key, None)
            elif there == place:
                return False
        return True

    def _decided(self, delivery: Delivery) -> bool | None:
        """False: it comes again. None: it is given up, and nobody knows of it any more."""
        door = self._doors.get(delivery.source)
        if door is None:
            log.warning("nobody is there for deliveries of %s", delivery.source)
            return True
        try:
            for note in door(delivery):
                log.info("%s", note)
        except HostError as error:
            log.warning("a delivery is decided later: %s", error.sentence)
            return False
        except MergeBotError as error:
            log.warning("a delivery is given up: %s %s", error.sentence, error.advice)
            self._inbox.forget([delivery.key])  # so that it counts when it is sent again, once that is mended
            return None
        except Exception:  # one that nobody can read must not stop the others
            log.exception("a delivery met a fault of our own")
        return True
