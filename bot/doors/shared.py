"""Jobs of a thread, one after the other, each with its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.doors import found
from bot.doors.answering import Answering
from bot.doors.ground import Answer, Footing, Ground
from bot.doors.task import Task
from bot.doors.telling import telling
from bot.doors.thread import Thread
from bot.doors.work import broken, work
from bot.forge import PullRequest
from bot.job import Job, Outcome
from bot.request import MergeRequest


def settled(tasks: Sequence[Task], *, pull: PullRequest, ground: Footing) -> Answer:
    """All of them handed on to `ground.settle`, or else done here. Raises HostError where nothing can be posted."""
    if ground.settle is not None:
        return ground.settle(tasks, pull, ground)
    results: list[tuple[Job, Outcome]] = []
    notes: list[str] = []
    for task in tasks:
        thread = Thread(task.job, number=pull.number, ground=ground, command=task.command)
        elsewhere = thread.begin()
        if elsewhere is not None:
            notes.append(f"The same job is being done already: {elsewhere}")
            results.append((task.job, Outcome(ended="skipped")))
            continue
        results.append((task.job, _done(task, thread, fork=pull.head_repository, ground=ground)))
        notes += [thread.note] if thread.note else []
    return Answer(results=tuple(results), notes=tuple(notes))


def ready(task: Task, *, fork: str | None, ground: Footing) -> MergeRequest:
    """The request once it is the job's turn: an adapter of the GitHub PR is fetched first, at the pinned head.

    `fork` is the head's repository, for LFS files that the base repository lacks. Raises what `found.fetched` does.
    """
    if task.target is None or not isinstance(ground, Ground):  # only GitHub PRs hold adapters in folders
        return task.request
    limit = found.MOST_BYTES if task.job.asked_by else found.MOST_UNASKED
    adapter = found.fetched(task.target, head=task.job.head_sha, fork=fork, ground=ground, limit=limit)
    return replace(task.request, adapter=adapter)


def _done(task: Task, answering: Answering, *, fork: str | None, ground: Footing) -> Outcome:
    """The job's outcome, which its comment tells, whatever happens."""
    try:
        with telling(answering, ground=ground) as progress:
            outcome = work(
                task.job.verb,
                lambda: ready(task, fork=fork, ground=ground),
                settings=ground.settings,
                progress=progress,
                gate=answering.check,
            )
    except BaseException as error:
        answering.end(broken(error))
        raise
    answering.end(outcome)
    return outcome
