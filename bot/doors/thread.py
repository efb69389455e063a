"""The one comment of a job under a GitHub PR: posted, edited as the work goes on, read for who calls it off."""

from __future__ import annotations

from bot.doors.ground import Ground
from bot.errors import AccessError, HostError, RefusedError, StoppedError
from bot.forge import Comment
from bot.job import Job, Now, Outcome
from bot.publish import comment as texts
from bot.publish.marker import find_job, of_job

AGAIN = "Write the command again when you like."


class Thread:
    """The comment of one job, which a `command` may have asked for.

    `note` says what kept us from commenting, if something did: the work goes on without.
    """

    def __init__(self, job: Job, *, number: int, ground: Ground, command: Comment | None = None) -> None:
        self.job, self.number, self._command = job, number, command
        self.note = ""
        self._ground, self._forge = ground, ground.forge
        self._comment: Comment | None = None
        self._deaf = False

    def begin(self) -> str | None:
        """Posts the comment, or takes up an earlier run's. The answer is where the same job is being done already.

        Raises HostError when GitHub is at fault.
        """
        earlier = self._forge.find_comment(self.number, marker=of_job(self.job.key))
        if earlier is not None and self._is_alive(earlier):
            return earlier.url
        text = texts.working(self.job, Now(), at=self._ground.now())
        edited = (
            None
            if earlier is None or find_job(earlier.body) is None
            else self._forge.edit_comment(earlier, text)
        )
        try:
            self._comment = edited or self._forge.post_comment(self.number, text)
        except AccessError as error:
            self.note = f"{error.sentence} {error.advice}"
            return None
        return self._elsewhere()

    def tell(self, now: Now) -> None:
        """Shows how far the job is. Raises StoppedError when somebody has called it off; GitHub's faults pass by."""
        if self._comment is None:
            return
        try:
            self._check_wanted()
            text = texts.working(self.job, now, at=self._ground.now())
            if self._forge.edit_comment(self._comment, text) is None and not self._deaf:
                raise _deleted()
        except (HostError, AccessError) as error:  # a comment less, and the next one comes soon
            self._ground.progress.say(f"The comment could not be edited: {error.sentence}")

    def check(self) -> None:
        """Whether the job is still to be published: last look. Raises StoppedError, RefusedError or HostError.

        From here on nothing stops it, so that no half of it is left.
        """
        if self._comment is not None:
            self._check_wanted()
            if (url := self._elsewhere()) is not None:
                raise StoppedError(
                    f"The same job is being done elsewhere: {url}.", advice=AGAIN, code="done-elsewhere"
                )
        self._check_asked()
        self._check_head()
        self._deaf = True

    def end(self, outcome: Outcome) -> None:
        """The last text. Where the comment is gone or GitHub does not answer, the run's own page has it."""
        if self._comment is None:
            return
        text = texts.finished(
            self.job, outcome, at=self._ground.now(), endpoint=self._ground.settings.endpoint
        )
        try:
            self._forge.edit_comment(self._comment, text)
        except (HostError, AccessError) as error:
            self.note = f"The comment could not be edited: {error.sentence}"

    def _is_alive(self, found: Comment) -> bool:
        """Whether another run works on it and has shown a sign of life."""
        mark = find_job(found.body)
        if mark is None or mark.state not in {"running", "cancelling"} or mark.run == self.job.run:
            return False
        return self._ground.now() - mark.at < self._ground.stale

    def _elsewhere(self) -> str | None:
        """Where two runs have begun in one moment, the newest comment is the job's, and ours points to it."""
        newest = self._forge.find_comment(self.number, marker=of_job(self.job.key))
        if (
            newest is None
            or self._comment is None
            or newest.id == self._comment.id
            or not self._is_alive(newest)
        ):
            return None
        self._forge.edit_comment(self._comment, texts.elsewhere(newest.url))
        self._comment = None
        return newest.url

    def _check_wanted(self) -> None:
        if self._comment is None or self._deaf:
            return
        found = self._forge.comment(self._comment.id, self._comment.kind)
        if found is None:
            raise _deleted()
        mark = find_job(found.body)
        if mark is not None and mark.state == "cancelling":
            raise StoppedError(
                "It was cancelled with /merge cancel; nothing was published.", advice=AGAIN, code="cancelled"
            )

    def _check_asked(self) -> None:
        """A command that was deleted was taken back."""
        command = self._command
        if command is not None and self._forge.comment(command.id, command.kind) is None:
            raise StoppedError(
                "The command was deleted, so the work was stopped; nothing was published.",
                advice=AGAIN,
                code="command-deleted",
            )

    def _check_head(self) -> None:
        """The GitHub PR as it was when the job began. Raises StoppedError or RefusedError."""
        pull = self._forge.pull_request(self.number)
        if pull is None or pull.state != "open":
            gone = "is gone" if pull is None else f"was {pull.state} meanwhile"
            raise StoppedError(
                f"The GitHub PR {gone}; nothing was published.",
                advice="Open it again, and write the command again.",
                code="pull-request-closed",
            )
        if pull.head_sha != self.job.head_sha:
            raise moved(self.job.head_sha, pull.head_sha)


def moved(pinned: str, now: str) -> RefusedError:
    """The refusal for a head that is not the one that was asked about."""
    return RefusedError(
        f"The head of the GitHub PR was {pinned[:12]} when this was asked for, and is {now[:12]} now; nothing was"
        " published.",
        advice="Look at what was pushed, and write the command again.",
        code="head-moved",
    )


def _deleted() -> StoppedError:
    return StoppedError(
        "The comment of this job was deleted, so the work was stopped; nothing was published.",
        advice=AGAIN,
        code="answer-deleted",
    )
