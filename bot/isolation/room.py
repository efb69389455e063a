"""Where work on strangers' files is done: in a worker process without tokens and network, or, if told so, right here.

`call` is the door: it runs a function, named as `module:function`, in the room that is open, and in this process when
none is. One worker serves a whole command, so that torch is imported once.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any

from bot.errors import MergeError
from bot.isolation import exchange, seal, spare
from bot.isolation.piped import replay
from bot.progress import Progress
from bot.settings import Settings, secret_places, worker_environment
from bot.temporary import TemporaryFolder

HERE = "none: the merge ran in the process of the command (MERGE_BOT_ISOLATION=none)"
APART = "a process of its own without tokens, {}"
BOOT = (
    "import sys; from os import pathsep; sys.path[:] = sys.argv.pop().split(pathsep);"
    " from importlib import import_module; import_module(sys.argv.pop(1)).main(int(sys.argv[1]))"
)


class TooLongError(Exception):
    """A job was not done in its `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not done in {seconds:g} seconds")
        self.seconds = seconds


class Here:
    """This process. Limits are not enforced."""

    def isolation(self) -> str:
        """That nothing keeps the work apart, for the report."""
        return HERE

    def do(self, job: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Runs the function."""
        module, _, function = job.partition(":")
        return getattr(import_module(module), function)(*given, **named)

    def close(self) -> None:
        """Nothing is left running."""


class Apart:
    """A process of its own, started when it is first needed, or ahead of that by `start`."""

    def __init__(self, *, verbosity: int, seconds: float, walls: Sequence[str] = seal.WALLS) -> None:
        self._verbosity, self._walls = verbosity, walls
        self._seconds = seconds  # for a job that is timed
        self._process: subprocess.Popen[bytes] | spare.Forked | None = None
        self._home: TemporaryFolder | None = None
        self._pipe, self._rest = -1, b""
        self._cut = ""
        self._hidden = False

    @property
    def pid(self) -> int | None:
        """The worker's process, and the group of it and its children."""
        return self._process.pid if self._process else None

    def start(self, *ahead: str) -> None:
        """Starts the worker and does not wait for it. `ahead`: modules that it imports while it has nothing to do."""
        if self._process is not None:
            return
        self._home = TemporaryFolder("worker")
        home = str(self._home.path)
        self._process, self._pipe = spare.take() or self._spawned(home)
        self._send(
            {
                "parent": os.getpid(),
                "home": home,
                "temporary": tempfile.gettempdir(),
                "file": seal.largest_file(),
                "masks": secret_places(),
                "walls": [*self._walls],
                "verbosity": self._verbosity,
                "ahead": ahead,
            }
        )

    def _spawned(self, home: str) -> tuple[subprocess.Popen[bytes], int]:
        ours, theirs = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *boot("bot.worker", theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=None if _is_open(2) else subprocess.DEVNULL,
                env=worker_environment(home=home),
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return process, ours

    def isolation(self) -> str:
        """What keeps the work apart, for the report."""
        self._ready()
        return APART.format(self._cut)

    def do(
        self,
        job: str,
        given: tuple[Any, ...],
        named: dict[str, Any],
        *,
        progress: Progress | None = None,
        timed: bool = False,
        memory: int | None = None,
        largest_file: int | None = None,
    ) -> Any:
        """Runs the function. Raises what it raises, TooLongError, MergeError when the worker dies."""
        self._ready()
        limits = {"memory": memory, "file": largest_file}
        self._send({"job": job, "given": given, "named": named, "progress": progress is not None, **limits})
        deadline = None
        while True:
            event = self._event(deadline)
            if "done" in event:
                return event["done"]
            if "failed" in event:
                raise exchange.raised(event["failed"])
            if "begun" in event:  # what it needs is imported
                deadline = time.monotonic() + self._seconds if timed else None
            elif progress is not None:
                replay(event, progress)

    def close(self) -> None:
        """Kills the worker with everything that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]
        process.wait()
        os.close(self._pipe)
        if self._home is not None:
            self._home.close()
        if self._hidden:
            seal.hidden_from_others(yes=False)
        self._cut, self._rest, self._hidden = "", b"", False

    def _ready(self) -> None:
        self.start()
        if not self._cut:
            self._cut = self._event(None)["ready"]
            if (
                self._cut != seal.NAMESPACE
            ):  # nothing but a domain keeps a process of the same user out of this one
                self._hidden = True
                seal.hidden_from_others(yes=True)

    def _send(self, message: dict[str, Any]) -> None:
        pipe = self._process.stdin if self._process else None
        try:
            pipe.write(exchange.dumps(message))  # type: ignore[union-attr]
            pipe.flush()  # type: ignore[union-attr]
        except BrokenPipeError:
            raise self._died() from None

    def _event(self, deadline: float | None) -> dict[str, Any]:
        while b"\n" not in self._rest:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._pipe], [], [], left)[0]:
                self.close()
                raise TooLongError(self._seconds)
            data = os.read(self._pipe, 1 << 20)
            if not data:
                raise self._died()
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        event: dict[str, Any] = exchange.loads(line)
        return event

    def _died(self) -> MergeError:
        process = self._process
        code = process.wait() if process else 0
        self.close()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        if code == -signal.SIGKILL:
            how += ", most likely because memory ran out"
        return MergeError(
            f"The worker process was ended {how}.",
            advice="Use a machine with more memory, or run it again with -vv to see what it says.",
            code="worker-died",
        )


Room = Apart | Here
_OPEN: ContextVar[Room | None] = ContextVar("room", default=None)


@contextmanager
def opened(settings: Settings, *, soon: Sequence[str] = ()) -> Iterator[Room]:
    """The room that `call` uses from here on; inside another one it is that. `soon`: modules there will be work for."""
    outer = _OPEN.get()
    if outer is not None:
        yield outer
        return
    room: Room = (
        Apart(verbosity=settings.verbosity, seconds=settings.plan_timeout)
        if settings.isolation == "process"
        else Here()
    )
    token = _OPEN.set(room)
    try:
        if soon and isinstance(room, Apart):
            room.start(*soon)
        yield room
    finally:
        _OPEN.reset(token)
        room.close()


def call(
    job: str,
    *given: Any,
    progress: Progress | None = None,
    timed: bool = False,
    memory: int | None = None,
    largest_file: int | None = None,
    **named: Any,
) -> Any:
    """Runs `module:function` in the open room. `progress` reaches the function when it is given.

    Raises what the function raises; when it is `timed`, TooLongError after the settings' plan_timeout, not counting
    imports; MergeError when the worker dies. `memory`: bytes that it may use,
    `largest_file`: bytes that a file may grow to.
    """
    room = _OPEN.get() or Here()
    if isinstance(room, Here):
        return room.do(job, given, named if progress is None else {**named, "progress": progress})
    return room.do(
        job, given, named, progress=progress, timed=timed, memory=memory, largest_file=largest_file
    )


def isolation() -> str:
    """What keeps the work in the open room apart, for the report."""
    return (_OPEN.get() or Here()).isolation()


def boot(module: str, handle: int) -> list[str]:
    """Arguments for Python that run `module.main(handle)`, isolated, with imports from where this process has them.

    Its -I would leave out PYTHONPATH.
    """
    path = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    return ["-I", "-c", BOOT, module, str(handle), path]


def _is_open(handle: int) -> bool:
    try:
        os.fstat(handle)
    except OSError:
        return False
    return True
