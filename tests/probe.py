"""What an adapter's code would try if it ever got to run in the worker."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from pathlib import Path

from bot.isolation import seal


def everything_in_sight() -> str:
    """Environment, arguments, open files and the home folder, in one text."""
    found = [repr(dict(os.environ))]
    found += [read(f"/proc/self/{name}") for name in ("environ", "cmdline")]
    found += [read(str(place)) for place in [*Path("/proc/self/fd").iterdir()] if not _is_pipe(place)]
    home = Path.home()
    found += [p.read_text(errors="replace") for p in home.rglob("*") if p.is_file()]
    found += [read(str(home / ".cache/huggingface/token"))]
    return "\n".join(found)


def _is_pipe(handle: Path) -> bool:
    try:
        place = str(handle.readlink())
    except OSError:
        return True
    return not place.startswith("/") or place.startswith("/dev/") or Path(place).is_dir()


def read(place: str) -> str:
    """The file's text, or nothing."""
    try:
        return Path(place).read_text(errors="replace")
    except OSError:
        return ""


def look_into(pid: int) -> list[str]:
    """What stops a look at another process's environment, memory and open files."""
    answers = []
    for name in ("environ", "mem", "fd/0"):
        try:
            Path(f"/proc/{pid}/{name}").open("rb").close()
            answers.append("nothing")
        except OSError as error:
            answers.append(type(error).__name__)
    return answers


def reach(port: int) -> str:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError as error:
        return repr(error)
    return "reached"


def reach_by_libc(port: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, bytes([127, 0, 0, 1]))
    return int(libc.connect(handle, address, len(address)))


def families(local: bool) -> list[str]:
    """Which kinds of sockets there are, after a filter that may allow this machine's own."""
    seal._filter(local=local)
    answers = []
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
        try:
            socket.socket(family, socket.SOCK_DGRAM).close()
            answers.append(family.name)
        except PermissionError:
            pass
    return answers


def child() -> int:
    return subprocess.Popen(["sleep", "60"]).pid


def die() -> None:
    os.kill(os.getpid(), 9)


def write(place: str, size: int) -> int:
    return Path(place).write_bytes(bytes(size))


def fill() -> int:
    return len(bytearray(1 << 30))


def fill_a_little() -> int:
    return len(bytearray(1 << 20))


def home() -> str:
    return str(Path.home())
