"""Where a job is answered: the thread of its host, or nowhere, for what was asked for on a page or by a command."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bot.doors.answering import Answering
from bot.errors import StoppedError
from bot.job import Now, Outcome
from bot.jobs.order import Entry, Host, Order, understood


class Silent:
    """An `Answering` for whoever looks for themselves."""

    note = ""

    def begin(self) -> str | None:
        return None

    def tell(self, now: Now) -> None:
        """Nobody hears it."""

    def look(self) -> None:
        """Nobody calls it off here."""

    def check(self) -> None:
        """Nobody calls it off here."""

    def end(self, outcome: Outcome) -> None:
        """Nobody hears it."""


class Unheard(Silent):
    """For a push. A later one of the same adapter takes its place, in whichever order they are done."""

    def __init__(self, is_overtaken: Callable[[], bool]) -> None:
        self._is_overtaken = is_overtaken

    def check(self) -> None:
        """Raises StoppedError once its adapter is another on main. Else it might be published over what is newer."""
        if self._is_overtaken():
            raise StoppedError(
                "The adapter was changed by a later push, so this was not published.",
                advice="Look for the job of that push; `merge-bot enqueue owner/name@COMMIT` merges an older one.",
                code="overtaken",
            )


class Answerer:
    """`threads`: by the name of a host, what makes the thread of an order.

    Raises InputError (`unreadable-job`) for an entry whose order cannot be read.
    """

    def __init__(self, threads: Mapping[Host, Callable[[Order], Answering]] | None = None) -> None:
        self._threads = dict(threads or {})

    def __call__(self, entry: Entry) -> Answering:
        order = understood(entry)
        make = self._threads.get(order.origin.host)
        return make(order) if make else Silent()
