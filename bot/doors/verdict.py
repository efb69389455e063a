"""What is said of a job on the head of its GitHub PR: a check run, or a commit status."""

from __future__ import annotations

from bot.doors.ground import Footing
from bot.errors import AccessError, HostError
from bot.forge import State
from bot.job import Job, Outcome
from bot.publish import comment as texts
from bot.publish.outcome_text import title

LONGEST_NAME, LONGEST_TITLE = 100, 200


def verdict(job: Job, outcome: Outcome, *, ground: Footing) -> str:
    """Says on the head how it went. The answer is what kept us from it, empty when nothing did."""
    try:
        said = ground.talk.verdict(
            job.head_sha,
            name=f"merge-bot: {job.what}"[:LONGEST_NAME],
            state=_state(outcome),
            title=title(job, outcome)[:LONGEST_TITLE],
            summary=texts.summary(job, outcome, endpoint=ground.settings.endpoint),
            url=job.url or None,
        )
    except (AccessError, HostError) as error:
        return f"{error.sentence} {error.advice}"
    return said or ""


def _state(outcome: Outcome) -> State:
    if outcome.ended in {"refused", "failed"}:
        return "failure"
    return "neutral" if outcome.failure is not None else "success"
