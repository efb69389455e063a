"""What happens when something happens on the Hub: event → jobs → answers. The service's webhook calls it.

What an event asks for is `bot.trigger.hub`'s to say; here is who may ask, and what is done about it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bot import connect
from bot.config.globs import matches
from bot.config.repository_file import STRICTNESS
from bot.config.rules import Rules, may_watch
from bot.doors import found, pushed, talk
from bot.doors.asked import job_key, of_command
from bot.doors.commanded import commanded
from bot.doors.ground import Answer, HubGround
from bot.doors.task import Task
from bot.doors.thread import moved
from bot.doors.work import work
from bot.errors import InputError
from bot.forge import Comment, PullRequest, Snapshot
from bot.job import Job, Outcome, Verb
from bot.plan.reference import parse
from bot.request import Destination, MergeRequest, Way
from bot.trigger.command import Command, Misread
from bot.trigger.hub import HubEvent, Ignored, Push, intent

if TYPE_CHECKING:
    from bot.clients.hub_repository import HubRepository


def answer(event: HubEvent, *, ground: HubGround) -> Answer:
    """Does what the event asks for, and says so where it was asked.

    Errors of a job are in its outcome. Raises HostError or AccessError where the Hub does not let us get that far, and
    InputError for a push with a merge-bot.yml that is wrong.
    """
    asked = intent(event)
    if isinstance(asked, Ignored):
        return _nothing(asked.reason)
    if not may_watch(ground.config, event.repository):
        return _nothing(f"{event.repository} is watched by no rule")
    if isinstance(asked, Push):
        return _pushed(asked, ground=ground)
    return _asked(event, asked, ground=ground)


def _nothing(reason: str) -> Answer:
    return Answer(notes=(f"Nothing to do: {reason}.",))


def _pushed(push: Push, *, ground: HubGround) -> Answer:
    """Merges that the configuration alone asks for: nothing is posted, and what is published speaks for itself."""
    tasks = pushed.tasks(
        push.repository,
        push.commit,
        before=push.before,
        config=ground.config,
        settings=ground.settings,
        run=ground.run,
    )
    if isinstance(tasks, Ignored):
        return _nothing(tasks.reason)
    if ground.settle is not None:
        return ground.settle(tasks, None, ground)
    return Answer(results=tuple((task.job, _unseen(task, ground=ground)) for task in tasks))


def _unseen(task: Task, *, ground: HubGround) -> Outcome:
    return work(task.job.verb, lambda: task.request, settings=ground.settings, progress=ground.progress)


def _asked(event: HubEvent, asked: Command | Misread, *, ground: HubGround) -> Answer:
    """A command in a discussion: who may give it, and what it is."""
    number = event.number or 0
    comment = ground.talk.comment(f"{number}#{event.comment}", "issue")
    if comment is None:
        return _nothing("the comment was deleted or hidden")
    if comment.author == ground.talk.login():
        return _nothing("it is our own comment")
    speaker = talk.Speaker(comment=replace(comment, body=event.body), number=number, ground=ground)
    if not _may(comment.author, ground=ground):
        return speaker.decline(
            f"Commands are for the owner of {event.repository}, and for whom the bot's operator has named.",
            "Ask one of them to write the command.",
        )
    return commanded(
        asked, speaker=speaker, tasks=partial(_tasks, number=number, comment=speaker.comment, ground=ground)
    )


def _may(user: str, *, ground: HubGround) -> bool:
    """The Hub does not tell who has which role, so it is the owner by name, and who is on a list."""
    ask, owner = ground.config.ask, ground.repository.partition("/")[0]
    if user.casefold() == owner.casefold() or any(matches(user, pattern) for pattern in ask.users):
        return True
    named = {name.casefold() for name in ask.organizations}
    return bool(named) and not named.isdisjoint(ground.talk.organizations(user))


def _tasks(
    command: Command, line: str, *, number: int, comment: Comment, ground: HubGround
) -> tuple[PullRequest, list[Task]]:
    """What a command makes to be done, in which thread. Raises InputError, RefusedError or HostError."""
    thread = _thread(number, ground=ground)
    return thread, _Reading(command, line, comment, thread, ground).tasks()


def _thread(number: int, *, ground: HubGround) -> PullRequest:
    thread = ground.talk.pull_request(number)
    if thread is None or thread.state != "open":
        raise InputError(
            "This discussion is not open.",
            advice="Open it again, or write in another.",
            code="discussion-closed",
        )
    return thread


class _Reading:
    """A command, and the repository as it is when it is read: main, and under a Hub PR its head."""

    def __init__(
        self, command: Command, line: str, comment: Comment, thread: PullRequest, ground: HubGround
    ) -> None:
        self._command, self._line, self._comment = command, line, comment
        self._thread, self._ground = thread, ground
        self._repository: HubRepository = connect.repository(ground.settings, ground.repository)
        self._main = self._at("main")
        self._here = self._at(thread.head_sha) if thread.head_sha else self._main

    def tasks(self) -> list[Task]:
        """What there is to be done, at pinned commits. Raises InputError, RefusedError, AccessError or HostError."""
        command, here = self._command, self._here
        if not here.commit.startswith(command.head.lower()):
            raise moved(command.head.lower(), here.commit)
        rules = pushed.in_force(self._ground.config, self._main, repository=self._repository)
        if rules is None:
            raise InputError(
                f"{here.repository} has opted out, or has not opted in.",
                advice="Look at its merge-bot.yml.",
                code="opted-out",
            )
        if command.adapters:
            return [self._elsewhere(rules)]
        return [self._inside(rules, folder) for folder in self._folders()]

    def _at(self, revision: str) -> Snapshot:
        found = self._repository.at(revision)
        if found is None:
            raise InputError(
                f"{self._ground.repository} has no commit {revision[:12]} any more.",
                advice="Write the command again.",
                code="not-found",
            )
        return found

    def _folders(self) -> tuple[str, ...]:
        if self._command.folder:
            return (self._command.folder,)
        folders = pushed.adapters(self._here)
        if not folders:
            raise InputError(
                f"{self._here.repository} holds no adapter at {self._here.commit[:12]}.",
                advice="Name the adapter: /merge owner/name.",
                code="no-adapter",
            )
        if self._command.verb == "merge" and len(folders) > 1:
            named = ", ".join(folder or "the one at its root" for folder in folders)
            raise InputError(
                f"There are several adapters: {named}.",
                advice="Name one: /merge --folder path, or /merge owner/name for the one at the root.",
                code="several-adapters",
            )
        return folders

    def _elsewhere(self, rules: Rules) -> Task:
        """Adapters that the command names. One of this repository alone goes where the rules say, as one on main."""
        first = parse(self._command.adapters[0])
        what = ", ".join(found.on_hub(each).what for each in self._command.adapters)
        own = (first.repo_id or "").casefold() == self._main.repository.casefold()
        if own and first.revision == "main" and len(self._command.adapters) == 1:
            known = self._known(rules, first.subfolder, there=self._main)
        else:
            known = pushed.ruled(rules, self._command.adapters[0])
        return self._task(known, what, adapter=known.adapter, rules=rules)

    def _inside(self, rules: Rules, folder: str) -> Task:
        """The adapter in a folder of this repository. Under a Hub PR, the same at another head shares its comment."""
        known, what = self._known(rules, folder, there=self._here), pushed.what(self._here, folder)
        return self._task(known, what, adapter=what if self._thread.head_sha else known.adapter, rules=rules)

    def _known(self, rules: Rules, folder: str, *, there: Snapshot) -> MergeRequest:
        """What the rules say, with the base model's name from the command for the destination."""
        return pushed.request(
            rules, folder, there=there, repository=self._repository, base=self._command.base or ""
        )

    def _task(self, known: MergeRequest, what: str, *, adapter: str, rules: Rules) -> Task:
        """`adapter` is what the job's key knows of it."""
        command, by, thread = self._command, self._comment.author, self._thread
        verb: Verb = "merge" if command.verb not in ("plan", "doctor") else command.verb
        asked = replace(of_command(command, known, by=by, access="unknown"), requester_owns=(by,))
        if command.to:
            asked = replace(asked, destination=_allowed(asked.destination, known.destination, by=by))
        if (
            asked.destination
            and known.destination
            and asked.destination.location == known.destination.location
        ):
            _checked_enough(asked.validation, known.validation)
        place = f"hub {self._main.repository}#{thread.number}"
        job = Job(
            key=job_key(replace(asked, adapter=adapter), verb=verb, place=place, head=thread.head_sha),
            verb=verb,
            what=what,
            asked_by=by,
            ask=self._line,
            head_sha=thread.head_sha,
            run=self._ground.run,
            url=self._ground.url,
        )
        return Task(job=job, request=asked, command=self._comment, runner=rules.runner)


def _checked_enough(way: Way, ruled: Way) -> None:
    """Raises InputError for less than the rules want of what goes where they say: a merge-bot.yml may not, either."""
    if STRICTNESS.index(way) < STRICTNESS.index(ruled):
        raise InputError(
            f"The rules of this repository want the checks {ruled}, and {way} are fewer.",
            advice="Leave out --validate, or write --to with a repository below your own name.",
            code="too-few-checks",
        )


def _allowed(to: Destination | None, ruled: Destination | None, *, by: str) -> Destination | None:
    """Where it goes. Raises InputError: the bot's token writes to more than the one who asks may.

    What they name is theirs, or what the rules say. There it is published as the rules say, or stricter: as a Hub PR.
    """
    if to is None:
        return None
    if ruled is not None and to.location.casefold() == ruled.location.casefold():
        return replace(ruled, kind="hub_pr", public=False) if to.kind == "hub_pr" else ruled
    if to.kind == "folder" or to.location.partition("/")[0].casefold() != by.casefold():
        raise InputError(
            f"{to.location} is not below the name of the one who asks.",
            advice=f"Write --to {by}/name, or leave it out: then the rules of this repository say where it goes.",
            code="not-your-destination",
        )
    return to
