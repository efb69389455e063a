"""The answers on either host: records → GitHub-flavoured Markdown, each with its hidden mark. Reads nothing.

Whatever strangers wrote (names, commands, what a config says) is shown as text: no pings, no links, no markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot.job import Failure, Job, Now, Outcome, Stage
from bot.publish.escape import code, joined, plain, row
from bot.publish.marker import Mark, job_marker
from bot.publish.model_card import HUB
from bot.publish.outcome_text import asked, result
from bot.wording import size

NOTICE = "<!-- adapter-merge-bot notice -->"  # begins the one comment that answers what is no job
POINTER = "<!-- adapter-merge-bot pointer -->"
STAGES: dict[str, tuple[Stage, ...]] = {
    "merge": ("queued", "planning", "fetching", "merging", "validating", "publishing"),
    "plan": ("queued", "planning"),
    "doctor": ("queued", "planning"),
}
DOING = {"merge": "Merging", "plan": "Planning", "doctor": "Examining"}
STANDS = {"queued": "waits in the queue", "running": "is going on", "cancelling": "is being stopped"}
LONGEST_BODY = 60_000  # GitHub takes 65,536 characters


def working(job: Job, now: Now, *, at: int) -> str:
    """The comment while the job goes on. `at`: seconds since 1970."""
    mark = Mark(job=job.thread, state="running", run=job.run, head=job.head_sha, at=at, ask=job.ask)
    stop = ["", "`/merge cancel` stops it."] if job.verb == "merge" else []
    return joined(
        [
            job_marker(mark),
            f"### {DOING[job.verb]}: {code(job.what)}",
            "",
            _stages(job, now),
            "",
            asked(job),
            *stop,
        ]
    )


def finished(job: Job, outcome: Outcome, *, at: int, endpoint: str = HUB, workflow: bool = True) -> str:
    """The comment when the job is over. `workflow`: what is missing can be added to the YAML of one."""
    mark = Mark(job=job.thread, state=outcome.ended, run=job.run, head=job.head_sha, at=at, ask=job.ask)
    return joined([job_marker(mark), *result(job, outcome, endpoint=endpoint, workflow=workflow)])[
        :LONGEST_BODY
    ]


def abandoned(mark: Mark, *, at: int) -> str:
    """The comment of a job that was called off, and whose run does not answer."""
    failure = Failure(
        code="cancelled",
        sentence="It was cancelled with /merge cancel, and its run did not answer: it counts as ended.",
        advice="Write /merge retry to begin anew. Should the run still be at work, it stops before it publishes.",
        exit_code=3,
    )
    what = mark.ask or "the job"
    job = Job(key=mark.key, what=what, ask=mark.ask, head_sha=mark.head, run=mark.run)
    return finished(job, Outcome(ended="skipped", failure=failure), at=at)


def summary(job: Job, outcome: Outcome, *, report: str = "", endpoint: str = HUB) -> str:
    """The page that GitHub shows of the run: the same, with the whole report behind it."""
    return joined([*result(job, outcome, endpoint=endpoint), *(["", report] if report else [])])


def notice(sentence: str, advice: str, *, to: str) -> str:
    """One answer to a command that starts no job. `to` is a user name, shown without a ping."""
    return joined([NOTICE, f"{plain(to)}: {plain(sentence)} {plain(advice)}"])


def helping(commands: Sequence[tuple[str, str]], options: Sequence[tuple[str, str]], *, thread: str) -> str:
    """What there is to say to the bot: commands and options, each with its meaning."""
    return joined(
        [
            NOTICE,
            f"The first line of a comment under a {thread} is a command when it begins with `/merge`.",
            "",
            *_table("Write", commands),
            "",
            "<details><summary>Options</summary>",
            "",
            *_table("Option", options),
            "",
            "</details>",
        ]
    )


def _table(head: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    said = [row(code(name), plain(says)) for name, says in rows]
    return [row(head, "What it does"), row("---", "---"), *said]


def status(state: str, url: str, *, to: str) -> str:
    """How a job stands, by the state in its mark, and where it is told of: `url` is empty where nowhere yet."""
    stands = STANDS.get(state, f"has ended: {state}")
    job = f"[last job]({url})" if url else "last job"
    return joined([NOTICE, f"{plain(to)}: the {job} {stands}."])


def remark(text: str) -> str:
    """A line beside the results on the page of a run."""
    return joined([plain(text)])


def elsewhere(url: str) -> str:
    """Ours becomes a pointer where the same job was begun twice in one moment."""
    return joined([POINTER, f"The same is being done already: {url}"])


def _stages(job: Job, now: Now) -> str:
    names = STAGES[job.verb]
    here = names.index(now.stage) if now.stage in names else 0
    return " → ".join(_stage(name, index - here, now) for index, name in enumerate(names))


def _stage(name: Stage, behind: int, now: Now) -> str:
    if behind < 0:
        return f"{name} ✓"
    if behind > 0:
        return name
    share = f" {min(99, 100 * now.done // now.total)} % of {size(now.total)}" if now.total else ""
    return f"**{name}{share}**"
