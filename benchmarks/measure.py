"""Runs one command and measures it: wall time, CPU time and memory of the whole process tree.

Linux only. This process stays small and imports no torch: a child's peak would start from its parent's.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.01  # seconds between two looks at the memory
GRACE = 5.0  # seconds that a child has to end by itself
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One run. Seconds and bytes; `anonymous` is what swap would have to hold, `resident` counts mapped files too."""

    wall: float
    user: float
    system: float
    anonymous: int
    resident: int
    looks: int


class FailedError(Exception):
    """A command that did not end with 0; its message has the end of the output."""


def measure(command: list[str], *, log: Path, every: float = EVERY) -> Sample:
    """Runs the command to its end. On any exception, Ctrl-C included, the child and its own children are ended."""
    anonymous = resident = looks = 0
    with log.open("wb") as output:
        started = time.perf_counter()
        process = start(command, output=output)
        handle = os.pidfd_open(process.pid)
        try:
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            while not ended.poll(every * 1000):
                now_anonymous, now_resident = memory(process.pid)
                anonymous, resident = max(anonymous, now_anonymous), max(resident, now_resident)
                looks += 1
            wall = time.perf_counter() - started
            _, status, usage = os.wait4(
                process.pid, 0
            )  # its own times, and those of all children it waited for
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            end(process)
            raise
        finally:
            os.close(handle)
    if process.returncode:
        raise FailedError(f"{' '.join(command)}\nended with {process.returncode}:\n{_tail(log)}")
    return Sample(
        wall=wall,
        user=usage.ru_utime,
        system=usage.ru_stime,
        anonymous=anonymous,
        resident=resident,
        looks=looks,
    )


def start(command: list[str], *, output: object) -> subprocess.Popen[bytes]:
    """Starts a child that a terminal's Ctrl-C does not reach: we end it, by its id. No child looks for a network."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the child's whole group: politely, then for certain."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


def memory(pid: int) -> tuple[int, int]:
    """Anonymous (with shared) and resident bytes of a process and all below it, now. What two share counts twice."""
    anonymous = resident = 0
    for one in tree(pid):
        fields = _status(one)
        anonymous += fields.get("RssAnon", 0) + fields.get("RssShmem", 0)
        resident += fields.get("VmRSS", 0)
    return anonymous, resident


def tree(pid: int) -> Iterator[int]:
    """The process and all below it."""
    yield pid
    try:
        children = [
            c for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()
        ]
    except OSError:  # it has just ended
        return
    for child in children:
        yield from tree(int(child))


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, value in pairs if value.endswith(" kB")}


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-2000:].strip()
