"""A worker that `bot.isolation.forkserver` has forked for this process ahead: its imports are done, and it waits."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bot import settings

VARIABLE = "MERGE_BOT_SPARE"


@dataclass(frozen=True, kw_only=True)
class Spare:
    """A child of this process, by its number; descriptors of its `stdin`, and of the `pipe` that it answers to."""

    pid: int
    stdin: int
    pipe: int

    def __str__(self) -> str:
        return f"{self.pid} {self.stdin} {self.pipe}"


class Forked:
    """What `bot.isolation.room` uses of a subprocess.Popen."""

    def __init__(self, spare: Spare) -> None:
        self.pid, self.stdin = spare.pid, os.fdopen(spare.stdin, "wb")
        self._code: int | None = None

    def wait(self) -> int:
        """Its exit code; below zero for a signal."""
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._code


def take() -> tuple[Forked, int] | None:
    """The spare worker and the pipe that it answers to, once; None where there is none."""
    said = settings.taken(VARIABLE)
    if said is None:
        return None
    pid, stdin, pipe = map(int, said.split())
    for handle in (stdin, pipe):
        os.set_inheritable(handle, False)  # noqa: FBT003 - positional by its signature
    return Forked(Spare(pid=pid, stdin=stdin, pipe=pipe)), pipe


def dismiss() -> None:
    """Ends it, if nobody has taken it."""
    if (taken := take()) is not None:
        worker, pipe = taken
        worker.stdin.close()
        worker.wait()
        os.close(pipe)
