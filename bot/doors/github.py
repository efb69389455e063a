"""What happens when something happens on GitHub: event → jobs → answers. The Action calls it, and a webhook may.

What an event asks for is `bot.trigger.github`'s to say; here is who may ask, and what is done about it.
"""

from __future__ import annotations

from functools import partial

from bot.doors import found, talk
from bot.doors.asked import job_key, of_command, of_inputs
from bot.doors.commanded import commanded
from bot.doors.found import Target
from bot.doors.ground import Answer, Ground
from bot.doors.shared import settled
from bot.doors.task import Task
from bot.doors.thread import moved
from bot.doors.work import work
from bot.errors import InputError
from bot.forge import Comment, PullRequest
from bot.job import Job, Verb
from bot.request import Access
from bot.trigger.command import Command, Misread
from bot.trigger.github import Event, Ignored, Look, OwnJob, intent
from bot.trigger.inputs import ROLES


def answer(event: Event, *, ground: Ground) -> Answer:
    """Does what the event asks for, and says so where it was asked.

    Errors of a job are in its outcome. Raises HostError or AccessError where GitHub does not let us get that far.
    """
    asked = intent(event)
    if isinstance(asked, Ignored):
        return Answer(notes=(f"Nothing to do: {asked.reason}.",))
    if isinstance(asked, OwnJob):
        return own_job(asked, ground=ground)
    if isinstance(asked, Look):
        return look(event, ground=ground)
    return _asked(event, asked, ground=ground)


def own_job(asked: OwnJob, *, ground: Ground) -> Answer:
    """The job that the inputs describe: a merge, or without a destination a plan."""
    inputs = ground.inputs
    adapter = inputs.adapter or asked.adapter
    if not adapter:
        return Answer(notes=("Nothing to do: the input adapter is empty, and the event names none.",))
    verb: Verb = "merge" if inputs.to else "plan"
    revision = inputs.adapter_revision if inputs.adapter else asked.revision
    job = Job(key="", verb=verb, what=adapter, run=ground.run, url=ground.url)
    outcome = work(
        verb,
        lambda: of_inputs(inputs, adapter=adapter, revision=revision),
        settings=ground.settings,
        progress=ground.progress,
    )
    return Answer(results=((job, outcome),))


def look(event: Event, *, ground: Ground) -> Answer:
    """The adapters that a GitHub PR changes: examined, planned, and merged where that is asked for and safe."""
    pull = None if event.number is None else ground.forge.pull_request(event.number)
    if pull is None or pull.state != "open":
        return Answer(notes=("Nothing to do: the GitHub PR is not open any more.",))
    if event.head_sha and pull.head_sha != event.head_sha:
        return Answer(notes=("Nothing to do: the GitHub PR has a new head, which has an event of its own.",))
    if pull.is_fork and not ground.rights.forks:
        return Answer(notes=("Nothing to do: GitHub PRs from forks are planned by command only.",))
    targets = found.changed(pull, ground=ground)
    if not targets:
        return Answer(notes=("Nothing to do: the GitHub PR changes no adapter folder.",))
    safe = not pull.is_fork and not pull.draft and len(targets) == 1
    verb: Verb = "merge" if ground.inputs.to and safe else "plan"
    command = Command(verb=verb)
    access: Access = "unknown" if pull.is_fork else ground.rights.access("write")
    tasks = [_task(command, target, pull=pull, access=access, ground=ground) for target in targets]
    return settled(tasks, pull=pull, ground=ground)


def _asked(event: Event, asked: Command | Misread, *, ground: Ground) -> Answer:
    """A command in a comment: who may give it, and what it is."""
    comment, number = event.comment, event.number
    if comment is None or number is None:  # an intent of this kind has both
        return Answer()
    speaker = talk.Speaker(comment=comment, number=number, ground=ground)
    speaker.react("eyes")
    role = ground.forge.permission(comment.author)
    if not _may(role, least=ground.inputs.permission):
        return speaker.decline(
            f"Commands take the role {ground.inputs.permission} in this repository.",
            "Ask somebody who has it to write the command.",
        )
    access = ground.rights.access(role)
    return commanded(asked, speaker=speaker, tasks=partial(_tasks, event, access=access, ground=ground))


def _may(role: str, *, least: str) -> bool:
    return role in ROLES and ROLES.index(role) >= ROLES.index(least)


def _tasks(
    event: Event, command: Command, line: str, *, access: Access, ground: Ground
) -> tuple[PullRequest, list[Task]]:
    """What a command makes to be done, with the head of the GitHub PR pinned. Raises InputError or RefusedError."""
    pull = None if event.number is None else ground.forge.pull_request(event.number)
    if pull is None or pull.state != "open":
        raise InputError(
            "This GitHub PR is not open.",
            advice="Open it again, or write under another.",
            code="pull-request-closed",
        )
    pinned = (
        command.head.lower() or event.head_sha
    )  # at a line of code, GitHub says which head was commented on
    if not pull.head_sha.startswith(pinned):
        raise moved(pinned, pull.head_sha)
    targets = _targets(event, command, pull=pull, access=access, ground=ground)
    return pull, [
        _task(command, target, pull=pull, asked=(event.comment, line), access=access, ground=ground)
        for target in targets
    ]


def _targets(
    event: Event, command: Command, *, pull: PullRequest, access: Access, ground: Ground
) -> tuple[Target, ...]:
    if command.adapters:
        return (found.on_hub(command.adapters[0]),)
    if command.folder:
        return (Target(what=command.folder, folder=command.folder),)
    targets = (*found.changed(pull, ground=ground), *found.linked(event.text, access=access, ground=ground))
    if not targets:
        raise InputError(
            "This GitHub PR changes no adapter folder, and its description links to no adapter on the Hub.",
            advice="Name the adapter: /merge owner/name.",
            code="no-adapter",
        )
    if command.verb == "merge" and len(targets) > 1:
        raise InputError(
            f"There are several adapters: {', '.join(t.what for t in targets)}.",
            advice="Name one: /merge owner/name, or /merge --folder path.",
            code="several-adapters",
        )
    return targets


def _task(
    command: Command,
    target: Target,
    *,
    pull: PullRequest,
    access: Access,
    ground: Ground,
    asked: tuple[Comment | None, str] = (None, ""),
) -> Task:
    """`asked`: the comment and its line, of a command that somebody has written. Raises InputError."""
    comment, line = asked
    by = comment.author if comment else ""
    verb: Verb = "merge" if command.verb not in ("plan", "doctor") else command.verb
    known = of_inputs(ground.inputs, adapter=target.what)
    request = of_command(command, known, by=by, access=access)
    ground.rights.check(request.destination, repository=ground.forge.repository)
    place = f"{ground.forge.repository}#{pull.number}"
    several = [found.on_hub(reference).what for reference in command.adapters]
    job = Job(
        key=job_key(request, verb=verb, place=place, head=pull.head_sha),
        verb=verb,
        what=", ".join(several) or target.what,
        asked_by=by,
        ask=line,
        head_sha=pull.head_sha,
        run=ground.run,
        url=ground.url,
    )
    return Task(job=job, request=request, target=target, command=comment)
