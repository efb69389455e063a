"""What is said to somebody who wrote a command: reactions, one notice per thread, and answers that start no job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bot.doors import marks
from bot.doors.control import Place
from bot.doors.ground import Answer, Footing
from bot.errors import AccessError, HostError, MergeBotError
from bot.forge import Comment, Reaction
from bot.job import Job, Outcome
from bot.publish import comment as texts
from bot.publish.marker import Mark, find_job, remarked
from bot.trigger.command import HELP, Command, read
from bot.trigger.table import OPTIONS, Option

BETWEEN = 5.0  # seconds between two looks at whether a cancelled job has stopped


def react(comment: Comment, number: int, content: Reaction, *, ground: Footing) -> None:
    """Shows that a comment was read (eyes), done (rocket) or not (confused). If the host declines, nothing is lost."""
    try:
        ground.talk.react(comment, number, content)
    except (AccessError, HostError) as error:
        ground.progress.say(f"No reaction: {error.sentence}")


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """Somebody's comment with a command, and how it is answered."""

    comment: Comment
    number: int
    ground: Footing

    def react(self, content: Reaction) -> None:
        """Our reaction to the command."""
        react(self.comment, self.number, content, ground=self.ground)

    def decline(self, sentence: str, advice: str, *, outcome: Outcome | None = None) -> Answer:
        """Says why nothing is done."""
        self.react("confused")
        note = self._notice(texts.notice(sentence, advice, to=self.comment.author))
        job = Job(key="", what=self.comment.body.partition("\n")[0], asked_by=self.comment.author)
        if outcome is not None:
            return Answer(results=((job, outcome),), notes=note)
        return Answer(notes=(f"{sentence} {advice}", *note))

    def help(self) -> Answer:
        """Lists what there is to say."""
        options = [(o.flag, _said_of(o)) for o in OPTIONS]
        host = self.ground.host
        commands = (("/merge", host.merges), *HELP)
        note = self._notice(texts.helping(commands, options, thread=host.thread))
        self.react("rocket")
        return Answer(notes=note)

    def status(self) -> Answer:
        """How the job that is going on stands, or the last one."""
        found = self._going_on()
        if found is None and (key := self._unsaid()) is not None:
            return self._stands(key, "queued", url="")
        found = found or self._last()
        if found is None:
            return self.decline(
                f"There is no job under this {self.ground.host.thread}.",
                "Write /merge help to see what there is.",
            )
        comment, mark = found
        return self._stands(mark.key, mark.state, url=comment.url)

    def cancel(self) -> Answer:
        """Calls off the job that is going on, and waits until it has heard."""
        found, jobs = self._going_on(), self.ground.jobs
        key = found[1].key if found else self._unsaid()
        if key is None:
            return self.decline(
                f"No job is going on under this {self.ground.host.thread}.",
                "Write /merge status to see the last one.",
            )
        heard = jobs.cancel(key, by=self.comment.author, at=self._place) if jobs else None
        if found and heard is None:  # in the service: nobody is at it
            self._stop(*found, patience=self.ground.patience if jobs is None else 0.0)
        self.react("rocket")
        return Answer()

    def _stands(self, key: str, state: str, *, url: str) -> Answer:
        jobs = self.ground.jobs
        known = jobs.status(key, at=self._place) if jobs else None
        note = self._notice(texts.status(known or state, url, to=self.comment.author))
        self.react("rocket")
        return Answer(notes=note)

    def _unsaid(self) -> str | None:
        """The key of a job that waits for its turn, and so has no comment yet."""
        return self.ground.jobs.newest(at=self._place) if self.ground.jobs else None

    @property
    def _place(self) -> Place:
        return Place(self.ground.host.name, self.ground.talk.repository, self.number)

    def _stop(self, running: Comment, mark: Mark, *, patience: float) -> None:
        """Writes into the job's comment, and waits until its run has read it. Where none does, it counts as ended."""
        ground, waited = self.ground, 0.0
        while mark.state in marks.GOING:
            if waited >= patience or not marks.is_alive(mark, ground=ground):
                ground.talk.edit_comment(running, texts.abandoned(mark, at=ground.now()))
                return
            if mark.state == "running":  # also again, where the job's own edit came in between
                text = remarked(running.body, replace(mark, state="cancelling"))
                ground.talk.edit_comment(running, text)
            ground.sleep(BETWEEN)
            waited += BETWEEN
            now = ground.talk.comment(running.id, running.kind)
            if now is None:
                return
            running, mark = now, find_job(now.body) or Mark(job=mark.job, state="gone")

    def last_command(self) -> tuple[str, Command] | None:
        """The command that the last job was made of, as typed and as read; events that made jobs are passed over."""
        found = self._last(lambda mark: bool(mark.ask))
        command = read(found[1].ask) if found else None
        if (
            found is None
            or not isinstance(command, Command)
            or command.verb not in {"merge", "plan", "doctor"}
        ):
            return None
        return found[1].ask, command

    def _going_on(self) -> marks.Marked | None:
        return self._last(lambda mark: mark.state in marks.GOING)

    def _last(self, wanted: Callable[[Mark], bool] = lambda _: True) -> marks.Marked | None:
        """The job that was touched last, of those that are wanted."""
        found = marks.ours(self.number, ground=self.ground)
        return marks.last(tuple(one for one in found if wanted(one[1])), ground=self.ground)

    def _notice(self, text: str) -> tuple[str, ...]:
        """One notice in a thread: the next one takes its place. The answer is what kept us from it."""
        place = self.ground.talk
        try:
            earlier = place.find_comment(self.number, marker=texts.NOTICE)
            if earlier is None or place.edit_comment(earlier, text) is None:
                place.post_comment(self.number, text)
        except (AccessError, HostError) as error:
            return (said(error),)
        return ()


def _said_of(option: Option) -> str:
    chosen = f" One of {', '.join(option.choices)}." if option.choices else ""
    return f"{option.says}{chosen}"


def said(error: MergeBotError) -> str:
    """An error in one line."""
    return f"{error.sentence} {error.advice}"
