"""Work that was asked for on a code host, how far it is, and how it ended: frozen records for the answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.diagnosis import Diagnosis
from bot.records import Plan, Publication, Report

Verb = Literal["merge", "plan", "doctor"]
Ended = Literal["published", "refused", "skipped", "failed"]
Stage = Literal["queued", "planning", "fetching", "merging", "validating", "publishing"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is worked on; all who ask for the same at the same head share it, by `key`.

    `what`: the adapter as it was named. `asked_by` is a user, and `ask` their command as typed; both are empty where an
    event started it. `head_sha`: the head of the GitHub PR that was pinned. `run` is the run that works on it, `url`
    its page.
    """

    key: str
    verb: Verb = "merge"
    what: str
    asked_by: str = ""
    ask: str = ""
    head_sha: str = ""
    run: str = ""
    url: str = ""

    @property
    def thread(self) -> str:
        """What the same job at another head has, too: they share one comment."""
        return self.key.partition("-")[0]


@dataclass(frozen=True, kw_only=True)
class Now:
    """How far a job is: `done` of `total` in percent is shown where `total` is known."""

    stage: Stage = "queued"
    done: int = 0
    total: int = 0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error as a value: what `bot.errors` raised."""

    code: str
    sentence: str
    advice: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What a machine that was rented has cost: which one, for how long, in US dollars. `url` is the job's page."""

    machine: str
    seconds: float
    dollars: float
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended. `public`: everybody can read the publication; `cost` is in the operator's unit.

    `bill`: where it was merged on a machine that was rented for it.
    """

    ended: Ended
    plan: Plan | None = None
    report: Report | None = None
    publication: Publication | None = None
    diagnosis: Diagnosis | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    public: bool = False
    cost: int | None = None
    bill: Bill | None = None
