"""How much memory a process may still take, and how much it took."""

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


def of_tree(pid: int) -> int:
    """Bytes of memory that a process and all it has started have to themselves; 0 once it is gone.

    Pages of mapped files do not count: the kernel takes those back when it needs them.
    """
    own: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in place.read_text().splitlines())
            number = int(place.parent.name)
            children.setdefault(int(fields["PPid"]), []).append(number)
            own[number] = sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024
        except (OSError, KeyError):  # it ended meanwhile, or belongs to the kernel
            continue
    total, waiting = 0, [pid]
    while waiting:
        number = waiting.pop()
        total += own.get(number, 0)
        waiting += children.get(number, [])
    return total
