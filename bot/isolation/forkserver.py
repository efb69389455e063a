"""A process that has imported what merges need, and forks: a tiny merge would spend most of its time on imports.

Started by `bot.isolation.forking`, never by hand, as a worker is: no tokens, the libraries offline. For each step of a
job it forks a child, which forks the sealed worker that the step may want and then becomes the step by exec, a fresh
interpreter with an environment of its own. So the step is the worker's parent, as if it had started it itself, and no
worker has ever been where a token was. The idea is that of multiprocessing's `forkserver`, which has no second fork.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from bot.isolation.spare import VARIABLE, Spare

# What every full check imports in the end; the rest comes when it is wanted.
AHEAD = (
    "bot.worker",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "bot.work",
    "bot.merge.run",
    "bot.merge.model",
    "bot.validate.run",
    "bot.validate.witness",
    "bot.validate.behaviour",
    "bot.validate.published",
)
READY = b"ready"
LARGEST = 1 << 18  # bytes of one request
HANDLES = 1 << 20  # more than a process may have open


def main(handle: int) -> None:
    """Forks for whoever holds the other end of this socket, until it is closed or nothing was wanted for a while.

    How many seconds that is comes first.
    """
    control = socket.socket(fileno=handle)
    idle = float(control.recv(64))
    for module in AHEAD:
        with suppress(ImportError):  # then the worker that wants it says so
            import_module(module)
    gc.collect()
    gc.freeze()  # a collection would write to all the pages that the children share
    with suppress(ConnectionError):
        control.send(READY)
        _serve(control, idle=idle)


def _serve(control: socket.socket, *, idle: float) -> None:
    steps: dict[int, socket.socket] = {}
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    heard: list[socket.socket | int] = [control, ended]
    while ready := select.select(heard, [], [], None if steps else idle)[0]:
        if ended in ready:
            os.read(ended, 4096)
            _reap(steps)
        if control in ready:
            data, handles, *_ = socket.recv_fds(control, LARGEST, 5)
            if not data:
                return
            pid, reply = _forked(json.loads(data), handles)
            steps[pid] = reply


def _reap(steps: dict[int, socket.socket]) -> None:
    """Tells how each step has ended that has: its exit code, below zero for a signal."""
    for pid in list(steps):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            with steps.pop(pid) as reply, suppress(ConnectionError):
                reply.send(str(os.waitstatus_to_exitcode(status)).encode())


def _forked(step: dict[str, Any], handles: list[int]) -> tuple[int, socket.socket]:
    """The step's process, which the other side has been told, and where to tell it how that has ended."""
    *its, last = handles
    reply = socket.socket(fileno=last)
    pid = os.fork()
    if pid == 0:
        _become(step, *its)
    for handle in its:
        os.close(handle)
    with suppress(ConnectionError):
        reply.send(str(pid).encode())
    return pid, reply


def _become(step: dict[str, Any], stdin: int, stderr: int, pipe: int, secret: int) -> NoReturn:
    """In the child: forks the worker, reads what that must not know, and becomes the step."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(stderr, 2)
        asked, asks = os.pipe()
        hears, tells = os.pipe()
        pid = os.fork()
        if pid == 0:
            _work(asked, tells)
        _keep(pipe, asks, hears, secret)
        os.set_inheritable(secret, False)  # noqa: FBT003 - positional by its signature
        known = Spare(pid=pid, stdin=asks, pipe=hears)
        os.chdir(step["folder"])
        environment = _read(secret) | {VARIABLE: str(known)}
        os.execve(sys.executable, [sys.executable, *step["command"], str(pipe)], environment)  # noqa: S606
    except BaseException:  # noqa: BLE001 - a child must not go on with what its parent was about to do
        traceback.print_exc()
    os._exit(127)


def _read(secret: int) -> dict[str, str]:
    with os.fdopen(secret) as file:
        file.seek(0)
        environment: dict[str, str] = json.load(file)
    return environment


def _work(stdin: int, pipe: int) -> NoReturn:
    """In the child's child: waits to be told what to do, or for the end of stdin, which comes with its parent's."""
    try:
        os.setsid()
        os.dup2(stdin, 0)
        _keep(pipe)
        import_module("bot.worker").main(pipe)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - as above
        traceback.print_exc()
    os._exit(1)


def _keep(*handles: int) -> None:
    """Nothing else of what its parent had open, but stdin, stdout and stderr; these go through an exec."""
    for before, after in itertools.pairwise([2, *sorted(handles), HANDLES]):
        os.closerange(before + 1, after)
    for handle in handles:
        os.set_inheritable(handle, True)  # noqa: FBT003 - positional by its signature
