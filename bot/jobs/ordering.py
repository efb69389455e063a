"""A host's door in the service: its tasks become orders, and orders its tasks and answers again, in any process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bot.doors.control import Place
from bot.doors.ground import Answer, Footing, Ground
from bot.doors.shared import ready
from bot.doors.task import Task
from bot.doors.thread import Thread
from bot.errors import InputError
from bot.forge import Comment, PullRequest
from bot.jobs.desk import Desk
from bot.jobs.order import ACTIVE, Entry, Order, Origin, page
from bot.request import MergeRequest

AT_ONCE = 200  # jobs that are looked through together for those of one thread


@dataclass(frozen=True, kw_only=True)
class Enqueueing:
    """The `settle` of a Ground in the service: tasks are handed in, and answered once it is their turn."""

    desk: Desk
    runner: str = "auto"

    def __call__(self, tasks: Sequence[Task], pull: PullRequest | None, ground: Footing) -> Answer:
        notes = []
        for task in tasks:
            order = order_of(task, pull=pull, ground=ground, runner=self.runner)
            entry = self.desk.enqueue(order)
            ours = entry.order.job.run == task.job.run
            said = "is queued" if ours else "is being done already"
            notes.append(f"The job {task.job.key} {said}.")
        return Answer(notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class Queue:
    """`bot.doors.control.Control` of a desk."""

    desk: Desk

    def status(self, key: str, *, at: Place) -> str | None:
        entry = self._entry(key, at=at)
        return entry.state if entry else None

    def newest(self, *, at: Place) -> str | None:
        before = None
        while going := self.desk.entries(states=ACTIVE, before=before, limit=AT_ONCE):
            for entry in going:
                if entry.readable and _is_there(entry, at):
                    return entry.order.job.key
            before = going[-1].created
        return None

    def cancel(self, key: str, *, by: str, at: Place) -> str | None:
        entry = self.desk.cancel(key, by=by) if self._entry(key, at=at) else None
        return entry.state if entry else None

    def _entry(self, key: str, *, at: Place) -> Entry | None:
        """The job, if it is of this thread; a key that is cut short, which a desk takes, may be anybody's."""
        try:
            entry = self.desk.entry(key)
        except InputError:
            return None
        found = entry is not None and entry.order.job.key == key and _is_there(entry, at)
        return entry if found else None


def _is_there(entry: Entry, at: Place) -> bool:
    origin = entry.order.origin
    there = (origin.host, origin.repository.casefold(), origin.number)
    return there == (at.host, at.repository.casefold(), at.number)


def order_of(task: Task, *, pull: PullRequest | None, ground: Footing, runner: str = "auto") -> Order:
    """The task as it is stored. Without a GitHub PR or discussion, a push is what asked for it."""
    command = task.command
    origin = Origin(
        host=ground.host.name if pull else "watch",
        repository=ground.talk.repository,
        number=pull.number if pull else None,
        comment=str(command.id) if command else "",
        kind=command.kind if command else "issue",
        author=pull.author if pull else "",
    )
    return Order(
        job=task.job, request=task.request, origin=origin, target=task.target, runner=_chosen(task, runner)
    )


def task_of(order: Order) -> Task:
    """The inverse of `order_of`; the command's text is the line that was read."""
    job, origin = order.job, order.origin
    command = None
    if origin.comment:
        command = Comment(id=origin.comment, author=job.asked_by, body=job.ask, url="", kind=origin.kind)
    return Task(job=job, request=order.request, target=order.target, command=command, runner=order.runner)


def answering(order: Order, *, ground: Footing) -> Thread:
    """The job's thread. Call `begin` first, in each process: the same run takes over its own comment."""
    job = replace(order.job, url=page(ground.url, order.job.key))
    return Thread(job, number=_number(order), ground=ground, command=task_of(order).command)


def request(order: Order, *, ground: Ground) -> MergeRequest:
    """What the pipeline is asked for; an adapter of the GitHub PR is fetched below `ground.folder` first.

    Raises RefusedError, InputError, AccessError or HostError.
    """
    task = task_of(order)
    inside = task.target is not None and task.target.folder is not None
    pull = ground.forge.pull_request(_number(order)) if inside else None
    return ready(task, fork=pull.head_repository if pull else None, ground=ground)


def _chosen(task: Task, runner: str) -> str:
    """The task's own runner, unless it leaves that open."""
    return runner if task.runner == "auto" else task.runner


def _number(order: Order) -> int:
    if order.origin.number is None:
        raise ValueError("an order from a thread names it")
    return order.origin.number
