"""What was delivered, one after the other: a door decides what it asks for, and puts that in line.

A delivery is finished once its door has decided; until then it is given out again, after a crash, too. What comes of
doing that twice is what comes of it once: jobs are known by their keys.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from bot.errors import HostError, MergeBotError
from bot.jobs.inbox import Delivery, Inbox

AT_ONCE = 4
EVERY = 0.5  # seconds between two looks into an empty inbox
LEASE = 300.0  # seconds after which a delivery that a host's fault has kept from being decided is tried again
log = logging.getLogger("bot.jobs")

Door = Callable[[Delivery], tuple[str, ...]]  # what there is to say; may block


class Clerk:
    """Reads the inbox in threads of its own. `doors`: by a delivery's source."""

    def __init__(self, inbox: Inbox, doors: Mapping[str, Door]) -> None:
        self._inbox, self._doors = inbox, dict(doors)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clerk", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Finishes what it has begun, and no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="door") as pool:
            while not self._stop.is_set():
                try:
                    taken = self._inbox.take(limit=AT_ONCE, lease=LEASE)
                    done = [
                        d.key
                        for d, is_done in zip(taken, pool.map(self._decided, taken), strict=True)
                        if is_done
                    ]
                    if done:
                        self._inbox.finish(done)
                except HostError as error:
                    log.warning("the inbox is not read: %s", error.sentence)
                    taken = ()
                if not taken:
                    self._stop.wait(EVERY)

    def _decided(self, delivery: Delivery) -> bool:
        door = self._doors.get(delivery.source)
        if door is None:
            log.warning("nobody is there for deliveries of %s", delivery.source)
            return True
        try:
            for note in door(delivery):
                log.info("%s", note, extra={"facts": {"delivery": delivery.key}})
        except HostError as error:
            log.warning(
                "a delivery is decided later: %s", error.sentence, extra={"facts": {"delivery": delivery.key}}
            )
            return False
        except MergeBotError as error:
            log.warning("a delivery is given up: %s %s", error.sentence, error.advice)
        except Exception:  # one that nobody can read must not stop the others
            log.exception("a delivery met a fault of our own")
        return True
