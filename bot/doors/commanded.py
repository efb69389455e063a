"""What a command that somebody may give comes to, on either host: an answer at once, or jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bot.doors.ground import Answer
from bot.doors.shared import settled
from bot.doors.talk import Speaker
from bot.doors.task import Task
from bot.doors.work import failed
from bot.errors import MergeBotError
from bot.forge import PullRequest
from bot.trigger.command import Command, Misread, first_line

Tasks = Callable[[Command, str], tuple[PullRequest, Sequence[Task]]]


def commanded(asked: Command | Misread, *, speaker: Speaker, tasks: Tasks) -> Answer:
    """`tasks` makes what is to be done of the command and its line, and says where; its errors are answered."""
    if isinstance(asked, Misread):
        return speaker.decline(asked.sentence, asked.advice)
    answers = {"help": speaker.help, "status": speaker.status, "cancel": speaker.cancel}
    if asked.verb in answers:
        return answers[asked.verb]()
    line, command = first_line(speaker.comment.body) or "", asked
    if command.verb == "retry":
        again = speaker.last_command()
        if again is None:
            return speaker.decline("There is no command here to be repeated.", "Write it again.")
        line, command = again
    try:
        pull, made = tasks(command, line)
    except MergeBotError as error:
        return speaker.decline(error.sentence, error.advice, outcome=failed(error))
    return settled(made, pull=pull, ground=speaker.ground)
