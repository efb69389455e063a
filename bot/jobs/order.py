"""What the service is to do for somebody, and where the answer goes: frozen records that survive in the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.doors.found import Target
from bot.errors import InputError
from bot.forge import Kind
from bot.job import Job, Now, Outcome
from bot.request import MergeRequest

Host = Literal["github", "hub", "watch", "page", "cli"]
# `cancelling` goes on, and ends as `skipped`.
State = Literal["queued", "running", "cancelling", "published", "refused", "skipped", "failed"]
ACTIVE: frozenset[State] = frozenset({"queued", "running", "cancelling"})


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a job was asked for. `watch`: a push to a watched repository, found by webhook or by polling.

    `repository` is `owner/name` on that host, `number` the GitHub PR or the Hub discussion, `comment` the id of the
    comment with the command, of that `kind` on GitHub. `author` has opened the GitHub PR or discussion.
    """

    host: Host
    repository: str = ""
    number: int | None = None
    comment: str = ""
    kind: Kind = "issue"
    author: str = ""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One job: `job.key` is its id. `target` is the adapter where it lies in a GitHub PR, `runner` where it is merged.

    `runner`: `auto`, `local`, `pool:QUEUE` or `hf-jobs`.
    """

    job: Job
    request: MergeRequest
    origin: Origin
    target: Target | None = None
    runner: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A job as the service shows it: in lists, on pages, in metrics. Times are seconds since 1970.

    `make` is the merge that the job waits for, which jobs from elsewhere may share; empty until there is a plan.
    `attempt` counts retries from 1. `worker` is the executor that works on it. Where the order is not
    `readable`, it has the id alone, and the outcome says so.
    """

    order: Order
    state: State = "queued"
    now: Now
    attempt: int = 1
    make: str = ""
    runner: str = ""
    worker: str = ""
    created: float
    started: float | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    readable: bool = True


def page(public_url: str | None, key: str) -> str:
    """The address of the job's page; empty where the configuration does not say how the service is reached."""
    return f"{public_url.rstrip('/')}/jobs/{key}" if public_url else ""


def understood(entry: Entry) -> Order:
    """Its order, for whoever does what it says. Raises InputError (`unreadable-job`)."""
    if not entry.readable:
        raise unreadable()
    return entry.order


def unreadable() -> InputError:
    """What is said of a document in the database that is of another version, or damaged."""
    return InputError(
        "What the database has of this job cannot be read by this version of merge-bot.",
        advice="Upgrade merge-bot and try the job again, or ask for the work anew.",
        code="unreadable-job",
    )


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a job's log; `number` counts from 1 within the job, `at` is in seconds since 1970."""

    number: int
    at: float
    text: str
