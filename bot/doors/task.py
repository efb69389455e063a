"""A job that a door has decided on, as a frozen record: it can be stored, and done by another process."""

from __future__ import annotations

from dataclasses import dataclass

from bot.doors.found import Target
from bot.forge import Comment
from bot.job import Job
from bot.request import MergeRequest


@dataclass(frozen=True, kw_only=True)
class Task:
    """`target` is the adapter where it lies in a GitHub PR or is called on the Hub; with None, `request` is complete.

    `command` is the comment that asked for it, if one did, and `runner` where it is merged.
    """

    job: Job
    request: MergeRequest
    target: Target | None = None
    command: Comment | None = None
    runner: str = "auto"
