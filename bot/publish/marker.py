"""The hidden lines by which the bot knows its own results and comments: in cards, Hub PRs and under GitHub PRs."""

from __future__ import annotations

import re
from dataclasses import dataclass

_KEY = r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}"
_MARKER = re.compile(rf"<!-- adapter-merge-bot key=({_KEY}) -->")


def marker(key: str) -> str:
    """The hidden line for a plan's key. Raises ValueError for a key that could not be read back."""
    if not re.fullmatch(_KEY, key):
        raise ValueError(f"{key!r} cannot be the key of a plan")
    return f"<!-- adapter-merge-bot key={key} -->"


def find_marker(text: str) -> str | None:
    """The key of the first marker in a text; None when it has none."""
    found = _MARKER.search(text)
    return found[1] if found else None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a comment says of its job, hidden: its `Job.thread` and state, which run works on it and at which head.

    `at`: when it was last touched, in seconds since 1970. `ask` is the command as it was typed, for a retry.
    """

    job: str
    state: str
    run: str = ""
    head: str = ""
    at: int = 0
    ask: str = ""

    @property
    def key(self) -> str:
        """The key of the job that the comment is about."""
        return keyed(self.job, self.head)


def keyed(thread: str, head: str) -> str:
    """The key of a job: its thread's, and the head that it was asked for at, if there is one."""
    return f"{thread}-{head[:12]}" if head else thread


_WORD = r"[A-Za-z0-9_-]{0,128}"
_JOB = re.compile(
    rf"<!-- adapter-merge-bot state=({_WORD}) job=({_WORD}) run=({_WORD}) head=({_WORD})"
    r" at=(\d{1,12}) ask=([0-9a-f]{0,16384}) -->"
)


ALL_JOBS = "<!-- adapter-merge-bot state="


def job_marker(mark: Mark) -> str:
    """The hidden line of a job's comment. Raises ValueError for a mark that could not be read back."""
    first = f"state={mark.state} job={mark.job} run={mark.run} head={mark.head}"
    line = f"<!-- adapter-merge-bot {first} at={mark.at} ask={mark.ask.encode().hex()} -->"
    if find_job(line) != mark:
        raise ValueError(f"{mark!r} cannot be the mark of a job")
    return line


def find_job(text: str) -> Mark | None:
    """The mark that a comment begins with; None when it has none. One further down is somebody's quotation."""
    found = _JOB.match(text)
    if found is None:
        return None
    state, job, run, head, at, ask = found.groups()
    try:
        typed = bytes.fromhex(ask).decode()
    except ValueError:
        return None
    return Mark(job=job, state=state, run=run, head=head, at=int(at), ask=typed)


def remarked(text: str, mark: Mark) -> str:
    """A comment of ours with another mark."""
    return job_marker(mark) + text[text.index("-->") + 3 :]
