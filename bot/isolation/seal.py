"""What a worker gives up before it looks at anything of a stranger: network, privileges, limits, ways to tokens.

Linux only, by the C library and nothing else. Each wall that the kernel does not grant is left out, and the answer
says which of them stand.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from bot.weights.device import has_driver

WALLS = ("namespace", "domain", "filter")
NAMESPACE = "network cut by a network namespace"
FILTER = "network cut by a system-call filter"
SWITCHES = (
    "network switched off in Python and in the libraries (the kernel allows neither namespace nor filter)"
)
IN_SIGHT = "other processes of this user are in its sight"

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
# CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID: what root needs to work on other users' files.
FILE_CAPABILITIES = 0b11111
SECCOMP_MODE_FILTER = 2
# AUDIT_ARCH and the numbers of socket(2); io_uring_setup(2), which opens sockets too, is 425 everywhere.
ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
# The numbers of Landlock's system calls are the same on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_ACCESS_FS_MAKE_CHAR, LANDLOCK_ACCESS_FS_MAKE_BLOCK = 1 << 6, 1 << 11
NO_FAMILY = 0xFFFFFFFF
OPEN_FILES = 4096

_libc = ctypes.CDLL(None, use_errno=True)


def seal(*, parent: int, masks: Sequence[str], walls: Sequence[str] = WALLS) -> str:
    """Seals the process, which must have one thread only, and says how its network is cut.

    `masks` are files and folders that hold secrets: hidden where a namespace is granted. Exits when `parent` is gone.
    """
    _limits()
    namespace = "namespace" in walls and _namespaces()
    if namespace:
        _hide(masks)
    _drop_capabilities()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    apart = "domain" in walls and _domain()
    filtered = "filter" in walls and _filter(local=has_driver())  # its daemons are talked to by Unix sockets
    if not (namespace or filtered):
        _guard()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it could have been noticed
        os._exit(1)
    cut = NAMESPACE if namespace else FILTER if filtered else SWITCHES
    return cut if namespace or apart else f"{cut}; {IN_SIGHT}"


def hidden_from_others(*, yes: bool) -> None:
    """Whether other processes of this user are kept from this one's memory and environment, where tokens are."""
    _prctl(PR_SET_DUMPABLE, 0 if yes else 1)


def limit(*, memory: int | None, file: int | None) -> None:
    """From now on no more than so many bytes of private memory, and in one file; None lifts it."""
    for kind, size in ((resource.RLIMIT_DATA, memory), (resource.RLIMIT_FSIZE, file)):
        _, hard = resource.getrlimit(kind)
        soft = hard if size is None else size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(kind, (soft, hard))


def bound(*, memory: int | None, file: int | None) -> None:
    """As `limit`, for good, and for every process that this one starts; each of them has it to itself."""
    limit(memory=memory, file=file)
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
        soft, _ = resource.getrlimit(kind)
        resource.setrlimit(kind, (soft, soft))


def largest_file() -> int | None:
    """Bytes that a file of this process may grow to; None: no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return None if soft == resource.RLIM_INFINITY else soft


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(
            "500"
        )  # when memory ends, the worker goes before its parent


def _namespaces() -> bool:
    """Root keeps its user namespace: in another one it could not read other users' files."""
    uid, gid = os.getuid(), os.getgid()
    own = 0 if uid == 0 else CLONE_NEWUSER
    if _libc.unshare(own | CLONE_NEWNET | CLONE_NEWNS):
        return False
    if own:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def _hide(masks: Sequence[str]) -> None:
    """Puts nothing in the place of files and folders; HOME is an empty folder."""
    if _libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None):
        return
    for place in masks:
        nothing = str(Path.cwd()) if Path(place).is_dir() else os.devnull
        if os.path.lexists(place):
            _libc.mount(os.fsencode(nothing), os.fsencode(place), None, ctypes.c_ulong(MS_BIND), None)


def _drop_capabilities() -> None:
    """With fewer than its parent, a process may not look into it either (ptrace(2), access mode checking)."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data):
        return
    _, permitted, _, *_ = struct.unpack("=6I", data.raw)
    kept = permitted & FILE_CAPABILITIES if os.getuid() == 0 else 0
    _libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))


def _domain() -> bool:
    """A Landlock domain: what is outside of it cannot be traced, nor its environment be read, also by the same user.

    The right that it gives up to get one is to make device files. Source: https://docs.kernel.org/userspace-api/landlock.html
    """
    rights = ctypes.c_uint64(LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)
    size, none = ctypes.c_size_t(ctypes.sizeof(rights)), ctypes.c_ulong(0)
    ruleset = _libc.syscall(ctypes.c_long(LANDLOCK_CREATE_RULESET), ctypes.byref(rights), size, none)
    if ruleset < 0:
        return False
    try:
        return bool(_libc.syscall(ctypes.c_long(LANDLOCK_RESTRICT_SELF), ctypes.c_int(ruleset), none) == 0)
    finally:
        os.close(ruleset)


def _filter(*, local: bool) -> bool:
    """No new socket of any kind, also for compiled code; of this machine's own (AF_UNIX) only if `local`."""
    known = ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    architecture, number = known
    load, equal, larger, answer = 0x20, 0x15, 0x35, 0x06
    denied, allowed, killed = 0x00050000 | 13, 0x7FFF0000, 0x80000000  # EACCES
    lines = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (answer, 0, 0, killed),
        (load, 0, 0, 0),
        (larger, 4, 0, 0x40000000),  # the x32 numbers of x86_64
        (equal, 3, 0, 425),
        (equal, 0, 3, number),
        (load, 0, 0, 16),  # the first argument: the family of addresses
        (equal, 1, 0, socket.AF_UNIX if local else NO_FAMILY),
        (answer, 0, 0, denied),
        (answer, 0, 0, allowed),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = struct.pack("@HP", len(lines), ctypes.addressof(code))
    return bool(_prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program) == 0)


def _guard() -> None:
    """Python's own sockets, as the last resort."""

    def refused(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError(13, "the worker has no network")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        setattr(socket.socket, name, refused)


def _prctl(option: int, first: int, second: Any = 0) -> int:
    after = second if isinstance(second, bytes) else ctypes.c_ulong(second)
    return int(_libc.prctl(option, ctypes.c_ulong(first), after, ctypes.c_ulong(0), ctypes.c_ulong(0)))
