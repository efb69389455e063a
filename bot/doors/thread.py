"""A job's answer where it was asked for: one comment, edited as the work goes on, and read for who calls it off.

It ends with a verdict on the head, and a reaction to the command. Implements `bot.doors.answering.Answering`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from bot.doors import marks, talk
from bot.doors.ground import Footing
from bot.doors.insisting import insisted
from bot.doors.verdict import verdict
from bot.errors import AccessError, HostError, RefusedError, StoppedError
from bot.forge import Comment
from bot.job import Job, Now, Outcome
from bot.publish import comment as texts
from bot.publish.marker import Mark, find_job

LIMIT = 3600.0  # seconds: GitHub's limits are for an hour, and hours of work may be at stake
AGAIN = "Write the command again when you like."


class Thread:
    """The comment of one job, which a `command` may have asked for.

    `begin` in another process takes up the comment where the same run has left it.
    """

    def __init__(self, job: Job, *, number: int, ground: Footing, command: Comment | None = None) -> None:
        self.job, self.number, self._command = job, number, command
        self._notes: list[str] = []
        self._ground, self._talk = ground, ground.talk
        self._comment: Comment | None = None
        self._deaf = False
        self._lock = threading.RLock()  # the work's thread checks and ends, another one tells

    @property
    def note(self) -> str:
        return " ".join(self._notes)

    def begin(self) -> str | None:
        """Posts the comment, or takes over an earlier one. The answer is where the same is being done already.

        A run at another head gives way to this one. Raises HostError when the host is at fault.
        """
        earlier = marks.of_thread(self.job.thread, self.number, ground=self._ground)
        if earlier and self._is_anothers(earlier[1]) and earlier[1].head == self.job.head_sha:
            return earlier[0].url
        text = texts.working(self.job, Now(), at=self._ground.now())
        edited = self._talk.edit_comment(earlier[0], text) if earlier else None
        try:
            self._comment = edited or self._talk.post_comment(self.number, text)
        except AccessError as error:
            self._notes.append(f"{error.sentence} {error.advice}")
            return None
        return self._elsewhere()

    def tell(self, now: Now) -> None:
        """Shows how far the job is. Raises StoppedError when somebody has called it off; the host's faults pass by."""
        self._passing_by(lambda: self._tell(now))

    def look(self) -> None:
        """Looks whether somebody has called it off, and then raises StoppedError."""
        self._passing_by(self._check_wanted)

    def _passing_by(self, call: Callable[[], None]) -> None:
        try:
            with self._lock:
                call()
        except (HostError, AccessError) as error:  # a comment less, and the next one comes soon
            self._ground.progress.say(f"The comment could not be edited: {error.sentence}")

    def _tell(self, now: Now) -> None:
        self._check_wanted()
        text = texts.working(self.job, now, at=self._ground.now())
        gone = self._comment is not None and self._talk.edit_comment(self._comment, text) is None
        if gone and not self._deaf:
            raise _deleted()

    def check(self) -> None:
        """Whether the job is still to be published: last look. Raises StoppedError, RefusedError or HostError.

        While the host stumbles, it is tried again for `Footing.insist` seconds, and a rate limit is waited for. From
        here on nothing stops it, so that no half of it is left.
        """
        with self._lock:
            insisted(self._check, ground=self._ground, announced=LIMIT)
            self._deaf = True

    def _check(self) -> None:
        if self._comment is not None:
            self._check_wanted()
            if (url := self._elsewhere()) is not None:
                raise _elsewhere(url)
        self._check_asked()
        self._check_head()

    def end(self, outcome: Outcome) -> None:
        """The last text. Where the comment is gone or the host does not answer, the run's own page has it."""
        with self._lock:
            if self._comment is not None:
                self._end(self._comment, outcome)
        if said := verdict(self.job, outcome, ground=self._ground):
            self._notes.append(said)
        if self._command is not None:
            bad = outcome.failure is not None or outcome.ended == "refused"
            talk.react(self._command, self.number, "confused" if bad else "rocket", ground=self._ground)

    def _end(self, comment: Comment, outcome: Outcome) -> None:
        text = texts.finished(
            self.job,
            outcome,
            at=self._ground.now(),
            endpoint=self._ground.settings.endpoint,
            workflow=self._ground.host.workflow,
        )
        try:
            insisted(lambda: self._talk.edit_comment(comment, text), ground=self._ground)
        except (HostError, AccessError) as error:
            self._notes.append(f"The comment could not be edited: {error.sentence}")

    def _is_anothers(self, mark: Mark) -> bool:
        """Whether another run is at work on it."""
        return mark.run != self.job.run and marks.is_alive(mark, ground=self._ground)

    def _elsewhere(self) -> str | None:
        """Where two runs have begun in one moment, the newest comment is the job's, and ours points to it."""
        found = marks.of_thread(self.job.thread, self.number, ground=self._ground)
        if found is None or self._comment is None:
            return None
        newest, mark = found
        if newest.id == self._comment.id or not self._is_anothers(mark):
            return None
        self._talk.edit_comment(self._comment, texts.elsewhere(newest.url))
        self._comment = None
        return newest.url

    def _check_wanted(self) -> None:
        if self._comment is None or self._deaf:
            return
        found = self._talk.comment(self._comment.id, self._comment.kind)
        if found is None:
            raise _deleted()
        mark = find_job(found.body)
        if mark is not None and mark.run != self.job.run:
            self._check_head(taken_over=True)
            raise _elsewhere(found.url)
        if mark is not None and mark.state != "running":  # cancelling, or called off by who thought us dead
            raise StoppedError(
                "It was cancelled with /merge cancel; nothing was published.", advice=AGAIN, code="cancelled"
            )

    def _check_asked(self) -> None:
        """A command that was deleted was taken back."""
        command = self._command
        if command is not None and self._talk.comment(command.id, command.kind) is None:
            raise StoppedError(
                "The command was deleted, so the work was stopped; nothing was published.",
                advice=AGAIN,
                code="command-deleted",
            )

    def _check_head(self, *, taken_over: bool = False) -> None:
        """The thread as it was when the job began. Raises StoppedError or RefusedError.

        Where another run has taken over the comment, it is theirs from now on.
        """
        pull = self._talk.pull_request(self.number)
        if taken_over:
            self._comment = None
        if pull is None or pull.state != "open":
            gone = "is gone" if pull is None else f"was {pull.state} meanwhile"
            raise StoppedError(
                f"The {self._ground.host.thread} {gone}; nothing was published.",
                advice="Open it again, and write the command again.",
                code="pull-request-closed",
            )
        if pull.head_sha != self.job.head_sha:
            raise moved(self.job.head_sha, pull.head_sha)


def moved(pinned: str, now: str) -> RefusedError:
    """The refusal for a head that is not the one that was asked about."""
    return RefusedError(
        f"The head was {pinned[:12]} when this was asked for, and is {now[:12]} now; nothing was published.",
        advice="Look at what was pushed, and write the command again.",
        code="head-moved",
    )


def _elsewhere(url: str) -> StoppedError:
    return StoppedError(f"The same job is being done elsewhere: {url}.", advice=AGAIN, code="done-elsewhere")


def _deleted() -> StoppedError:
    return StoppedError(
        "The comment of this job was deleted, so the work was stopped; nothing was published.",
        advice=AGAIN,
        code="answer-deleted",
    )
