"""What DBOS has claimed for this executor and then dropped: a full disk ends the coroutine, and the row stays."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bot.jobs.clock import passed
from bot.jobs.queues import Queues

ABSENT = 15.0  # seconds, and two looks: what is claimed and not begun yet was in the way of a lock
log = logging.getLogger("bot.jobs")


class Dropped:
    """Looks for it again and again; `active` gives the ids of what really runs in this process."""

    def __init__(
        self, executor: str, *, queues: Queues, active: Callable[[], frozenset[str]], seconds: float = ABSENT
    ) -> None:
        self._executor, self._queues, self._active, self._seconds = executor, queues, active, seconds
        self._missed: dict[str, float] = {}

    def look(self) -> None:
        """Puts back into its queue what has been missing since an earlier look."""
        there, now = self._queues.begun(self._executor), passed()
        missing = set(there) - self._active()
        self._missed = {id_: self._missed.get(id_, now) for id_ in missing}
        for id_, since in list(self._missed.items()):
            if since < now and now - since >= self._seconds:
                log.warning("%s was begun and then dropped; it is begun again", id_)
                self._queues.put_back(id_, self._executor)
                del self._missed[id_]
