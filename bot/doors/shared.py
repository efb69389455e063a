"""Jobs under a GitHub PR, one after the other: each with its comment, and a verdict on the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bot.doors.ground import Answer, Ground
from bot.doors.telling import Telling
from bot.doors.thread import Thread
from bot.doors.work import broken, work
from bot.errors import AccessError, HostError
from bot.forge import Comment, PullRequest, State
from bot.job import Job, Outcome
from bot.publish import comment as texts
from bot.publish.outcome_text import title
from bot.request import MergeRequest

LONGEST_NAME, LONGEST_TITLE = 100, 200


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job, what makes its request once it is its turn, and the command that it is for, if there is one."""

    job: Job
    command: Comment | None = None
    ready: Callable[[], MergeRequest]


def settled(tasks: Sequence[Task], *, pull: PullRequest, ground: Ground) -> Answer:
    """All of them done. Raises HostError where not even a comment can be posted."""
    results: list[tuple[Job, Outcome]] = []
    notes: list[str] = []
    for task in tasks:
        thread = Thread(task.job, number=pull.number, ground=ground, command=task.command)
        elsewhere = thread.begin()
        if elsewhere is not None:
            notes.append(f"The same job is being done already: {elsewhere}")
            results.append((task.job, Outcome(ended="skipped")))
            continue
        outcome = _done(task, thread, ground=ground)
        results.append((task.job, outcome))
        notes += [note for note in (thread.note, _verdict(task.job, outcome, ground=ground)) if note]
    return Answer(results=tuple(results), notes=tuple(notes))


def _done(task: Task, thread: Thread, *, ground: Ground) -> Outcome:
    """The job's outcome, which its comment tells, whatever happens."""
    try:
        outcome = work(
            task.job.verb,
            task.ready,
            settings=ground.settings,
            progress=Telling(thread, ground=ground),
            gate=thread.check,
        )
    except BaseException as error:
        thread.end(broken(error))
        raise
    thread.end(outcome)
    return outcome


def _verdict(job: Job, outcome: Outcome, *, ground: Ground) -> str | None:
    """Says on the head how it went. The answer is what kept us from it."""
    try:
        return ground.forge.verdict(
            job.head_sha,
            name=f"merge-bot: {job.what}"[:LONGEST_NAME],
            state=_state(outcome),
            title=title(job, outcome)[:LONGEST_TITLE],
            summary=texts.summary(job, outcome, endpoint=ground.settings.endpoint),
            url=job.url or None,
        )
    except (AccessError, HostError) as error:
        return f"{error.sentence} {error.advice}"


def _state(outcome: Outcome) -> State:
    if outcome.ended in {"refused", "failed"}:
        return "failure"
    return "neutral" if outcome.failure is not None else "success"
