"""Our comments under a GitHub PR, by their hidden marks: which is a job's, which is the last, which is alive."""

from __future__ import annotations

from bot.doors.ground import Footing
from bot.forge import Comment
from bot.publish.marker import ALL_JOBS, Mark, find_job

GOING = frozenset({"running", "cancelling"})
Marked = tuple[Comment, Mark]


def ours(number: int, *, ground: Footing) -> tuple[Marked, ...]:
    """Every comment of a job that we have made, the oldest first."""
    said = ground.talk.find_comments(number, marker=ALL_JOBS)
    return tuple((comment, mark) for comment in said if (mark := find_job(comment.body)))


def of_thread(thread: str, number: int, *, ground: Footing) -> Marked | None:
    """The newest comment of a job."""
    found = [marked for marked in ours(number, ground=ground) if marked[1].job == thread]
    return found[-1] if found else None


def last(found: tuple[Marked, ...], *, ground: Footing) -> Marked | None:
    """The one that was touched last: an old comment may have a new job."""
    return max(found, key=lambda one: (not _is_off(one[1], ground), one[1].at, one[0].id), default=None)


def is_alive(mark: Mark, *, ground: Footing) -> bool:
    """Whether a run works on it and has shown a sign of life."""
    return mark.state in GOING and abs(ground.now() - mark.at) < ground.stale


def _is_off(mark: Mark, ground: Footing) -> bool:
    """Whether it was made by a clock that is wrong by more than clocks are."""
    return mark.at - ground.now() >= ground.stale
