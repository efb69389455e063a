"""Starts steps by way of `bot.isolation.forkserver`, where that can be: each finds a worker that has its imports."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from bot.isolation.forkserver import LARGEST, READY
from bot.isolation.room import boot
from bot.settings import Settings, worker_environment
from bot.weights.device import has_driver

IDLE = 300.0
PATIENCE = 10.0  # seconds for a fork
NOWHERE = "/dev/null/home"  # of the libraries that are imported; each worker gets a home of its own


class Step:
    """A process that the server has forked: what `bot.jobs.process` uses of an asyncio subprocess."""

    def __init__(
        self, *, pid: int, stdin: asyncio.StreamWriter, stderr: asyncio.StreamReader, reply: socket.socket
    ) -> None:
        self.pid, self.stdin, self.stderr = pid, stdin, stderr
        self.returncode: int | None = None
        self._ended = asyncio.ensure_future(self._end(reply))

    async def wait(self) -> int:
        """Its exit code; below zero for a signal."""
        return await asyncio.shield(self._ended)

    async def _end(self, reply: socket.socket) -> int:
        with reply:
            said = await asyncio.get_running_loop().sock_recv(reply, 64)
        self.returncode = int(said) if said else 1  # the server itself has ended, and nobody knows
        return self.returncode


class ForkServer:
    """One for a process, started at the first step and again after a long rest; until it is ready, it starts none."""

    def __init__(self, *, idle: float = IDLE) -> None:
        """`idle`: seconds without a step after which it ends, and gives its memory back."""
        self._idle = idle
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready = False

    async def start(self, command: Sequence[str], *, environment: dict[str, str], pipe: int) -> Step | None:
        """Runs this Python with `command` and, as the last argument, the number of `pipe`; None if it cannot."""
        message = json.dumps({"command": [*command], "folder": str(Path.cwd())}).encode()
        if not self._is_ready() or self._control is None or len(message) > LARGEST // 2:
            return None
        with ExitStack() as ours, ExitStack() as theirs:
            reply, its = _sockets(ours, theirs)
            stdin, writer = await _pipe_to(ours, theirs)
            stderr, reader = await _pipe_from(ours, theirs)
            secret = _hidden(theirs, environment)
            try:
                socket.send_fds(self._control, [message], [stdin, stderr, pipe, secret, its])
                theirs.close()
                async with asyncio.timeout(PATIENCE):
                    said = await asyncio.get_running_loop().sock_recv(reply, 64)
            except (
                OSError
            ):  # it has just ended, or stands still; a step that comes late finds its stdin closed
                self.close()
                return None
            if not said:
                return None
            ours.pop_all()
            return Step(pid=int(said), stdin=writer, stderr=reader, reply=reply)

    def close(self) -> None:
        """Ends it; what it has started goes on."""
        process, control, self._process, self._control = self._process, self._control, None, None
        self._ready = False
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait()

    def _is_ready(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._begin()
        if not self._ready and self._control is not None:
            with suppress(OSError):
                self._ready = self._control.recv(len(READY), socket.MSG_DONTWAIT) == READY
        return self._ready

    def _begin(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.send(str(self._idle).encode())
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *boot("bot.isolation.forkserver", theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=worker_environment(home=NOWHERE),
                cwd=os.sep,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )


def _hidden(theirs: ExitStack, environment: dict[str, str]) -> int:
    """A file in memory that the step alone reads: neither the server nor a worker ever has a token in its own."""
    handle = os.memfd_create("environment")
    theirs.callback(os.close, handle)
    with os.fdopen(os.dup(handle), "w") as file:
        json.dump(environment, file)
    return handle


def _sockets(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, int]:
    """Our end, and the descriptor of its: each closed with its stack."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.settimeout(0)
    ours.enter_context(mine)
    return mine, theirs.enter_context(its).fileno()


async def _pipe_to(ours: ExitStack, theirs: ExitStack) -> tuple[int, asyncio.StreamWriter]:
    its, mine = os.pipe()
    theirs.callback(os.close, its)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(mine, "wb")
    )
    ours.callback(transport.close)
    return its, asyncio.StreamWriter(transport, protocol, None, loop)


async def _pipe_from(ours: ExitStack, theirs: ExitStack) -> tuple[int, asyncio.StreamReader]:
    mine, its = os.pipe()
    theirs.callback(os.close, its)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(mine, "rb")
    )
    ours.callback(transport.close)
    return its, reader


def fork_server(settings: Settings) -> ForkServer | None:
    """One, where workers are processes of their own and no GPU is near: its driver does not survive a fork.

    Source: https://docs.pytorch.org/docs/stable/notes/multiprocessing.html (poison fork).
    """
    return ForkServer() if settings.isolation == "process" and not has_driver() else None
