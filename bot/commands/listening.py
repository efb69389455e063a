"""Sockets to listen at, or one sentence about why that cannot be."""

from __future__ import annotations

import errno
import socket

from bot.errors import InputError

BACKLOG = 2048
STUCK = 60_000  # milliseconds after which a connection whose other end reads nothing is given up
ADVICE = {
    errno.EADDRINUSE: (
        "port-taken",
        "Stop what listens there, or choose another with --port; 0 takes a free one.",
    ),
    errno.EACCES: ("port-forbidden", "Choose a port from 1024 on with --port."),
}


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InputError (`port-taken`, `port-forbidden`, `bad-host`)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        code, advice = ADVICE.get(
            error.errno or 0, ("bad-host", "Name an address of this machine with --host.")
        )
        raise InputError(
            f"The service cannot listen at {host}, port {port}: {error.strerror}.", advice=advice, code=code
        ) from error
    # Every connection inherits these. Without the first, an answer of two parts waits for the other end's 40 ms.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK)
    return made


def address(at: socket.socket) -> str:
    """Where to find it, as a browser takes it."""
    host, port = at.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
