"""How much memory this process may still take, and how much it took."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
CGROUP = Path("/sys/fs/cgroup")


def available() -> int:
    """Bytes that this process may still take: the machine's, or its control group's when that is less."""
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no control group, or one without a limit
        return free
    return min(free, limit - used + int(stat.get("file", 0)))


def peak() -> int:
    """Bytes of memory that this process had at most, pages of mapped files included; 0 where the kernel does not tell.

    Not `ru_maxrss`: that of a process starts with its parent's.
    """
    try:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return 0


def private() -> int:
    """Bytes of memory that are this process's own now (anonymous pages); 0 where the kernel does not tell."""
    try:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):
        return 0
