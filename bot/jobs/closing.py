"""How jobs end: who waited for a make is told what became of it, and what is called off is stopped where it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bot.doors.work import failed
from bot.errors import MergeBotError, StoppedError
from bot.job import Outcome
from bot.jobs.ledger import Ledger
from bot.jobs.order import ACTIVE, Entry
from bot.jobs.patience import Patience
from bot.jobs.queues import Queues, job_id
from bot.jobs.runners.runner import Runner

CANCELLED = failed(
    StoppedError(
        "It was cancelled; nothing was published.", advice="Ask for it again when you like.", code="cancelled"
    )
)


@dataclass(frozen=True, kw_only=True)
class Closing:
    """Every method may be called again: an end is written once, and an answer is put in line once."""

    ledger: Ledger
    queues: Queues
    runners: Mapping[str, Runner] = field(default_factory=dict)

    def end(self, entry: Entry, outcome: Outcome) -> None:
        """This one job."""
        self.ledger.end(entry.order.job.key, entry.attempt, outcome)
        self.answer(entry)

    def end_all(self, make: str, outcome: Outcome) -> None:
        """All who waited for it; nobody joins it any more."""
        self.ledger.close(make)
        for entry in self.ledger.joined(make):
            if entry.state not in ACTIVE:
                continue
            called_off = entry.state == "cancelling" and outcome.ended != "published"
            self.end(entry, CANCELLED if called_off else outcome)

    def answer(self, entry: Entry) -> None:
        """It is told where it was asked for."""
        self.queues.answer(entry.order.job.key, entry.attempt)

    def let_go(self, make: str, *, patience: Patience) -> None:
        """What a make has begun elsewhere, which is given up here: nobody would hear of what it still does."""
        self.queues.cancel_shards(make)
        for entry in self.ledger.joined(make)[:1]:
            self._call_off(entry, patience=patience)

    def stop(self, entry: Entry, *, fresh: Callable[[], Entry], patience: Patience) -> None:
        """Calls it off: its plan, and its make if nobody else waits for that."""
        if entry.state == "cancelling":
            if entry.now.stage == "publishing":
                return
            self.queues.cancel(job_id(entry.order.job.key, entry.attempt))
            entry = fresh()
            if entry.make and not self.ledger.waiting(entry.make) and not self.ledger.close(entry.make):
                self.queues.cancel(entry.make)
                self._call_off(entry, patience=patience)
            self.end(entry, CANCELLED)
        elif entry.state not in ACTIVE:  # killed after the end was written, or ended by `tidy` before we came
            if entry.make and _is_called_off(entry) and not self.ledger.waiting(entry.make):
                self._call_off(entry, patience=patience)
            self.answer(entry)

    def _call_off(self, entry: Entry, *, patience: Patience) -> None:
        """What it began elsewhere: who follows it may be dead, and then hears of nothing."""
        runner = self.runners.get(entry.runner.partition(":")[0])
        if runner is None:
            return
        try:
            patience.ask(lambda: runner.call_off(entry.make))
        except MergeBotError as error:
            told = f"What runs elsewhere could not be called off: {error.sentence} {error.advice}"
            self.ledger.write(entry.order.job.key, [told])


def _is_called_off(entry: Entry) -> bool:
    failure = entry.outcome.failure if entry.outcome else None
    return failure is not None and failure.code == "cancelled"


def done_elsewhere(url: str) -> StoppedError:
    """How a job ends that another run of the bot has in hand."""
    return StoppedError(
        f"The same job is being done already: {url}.", advice="Its answer is there.", code="done-elsewhere"
    )


def is_elsewhere(outcome: Outcome) -> bool:
    """Whether it ended so."""
    return outcome.failure is not None and outcome.failure.code == "done-elsewhere"
