"""What nobody will go on with or take: folders in scratch space, and makes in the queue of a pool without a worker."""

from __future__ import annotations

import logging
import time

from bot.jobs.ledger import Ledger
from bot.jobs.queues import POOL, Queues, make_of
from bot.jobs.scratch import Scratch
from bot.wording import duration

LONG = 300.0  # seconds: a worker that starts anew, or changes from one merge to the next, takes less
TEXT = "Waiting for a worker: none has taken anything from the queue {} for {}. Start one that does."
log = logging.getLogger("bot.jobs")


def swept(scratch: Scratch, ledger: Ledger) -> None:
    """Clears away folders of makes that nobody waits for any more, such as one that was gone on with elsewhere."""
    scratch.sweep(keep=ledger.wanted())


def unserved(ledger: Ledger, queues: Queues, names: list[str], *, long: float = LONG) -> None:
    """Says once in the log of each job that waits in one of these queues that nobody takes from it."""
    for name in names:
        for make in {make_of(id_) for id_ in queues.waiting(name, since=time.time() - long)}:
            for entry in ledger.waiting(make):
                text = TEXT.format(name.removeprefix(POOL), duration(long))
                if text not in (line.text for line in ledger.lines(entry.order.job.key, limit=5000)):
                    ledger.write(entry.order.job.key, [text])
                    log.warning("nobody takes from the queue %s", name)
