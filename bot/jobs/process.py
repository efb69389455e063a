"""Runs one step of a job in a process of its own, which ends with it: cancelled, out of time, or left without us."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot.errors import MergeBotError, MergeError
from bot.isolation import exchange
from bot.isolation.forking import ForkServer, Step
from bot.isolation.piped import replay
from bot.jobs.lease import lost
from bot.jobs.meter import Meter
from bot.jobs.runners.runner import Log, Tell
from bot.jobs.scratch import used_by
from bot.settings import Settings, step_environment
from bot.weights.memory import of_tree
from bot.wording import size

BEAT = 1.0  # seconds between two signs of life
GRACE = 5.0  # seconds that a step has to clear up once it is called off
LONGEST = 2**30  # bytes of one message: the plan of a model with a million tensors
LOOKS = 1.0  # seconds between two looks at how much memory a step uses
DISK = 5  # so many of them between two looks at how much disk it has used

LAST = {"done", "failed", "alone"}

Gate = Callable[[], Awaitable[None]]
Process = asyncio.subprocess.Process | Step


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one step may use: bytes of `memory` for all its processes, of one `file`, of `disk`; `seconds` in all.

    None: no limit. `patience`: seconds without a sign of life after which it ends itself.
    """

    memory: int | None = None
    file: int | None = None
    disk: int | None = None
    seconds: float | None = None
    patience: float = 60.0


async def _open_gate() -> None:
    """Nobody has to be asked."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where steps run: in `scratch`, on these `settings`, told to `tell` and `log`.

    `alive` says whether this executor still holds its lease: only then does the step get a sign of life. `gate` is
    asked before a publication; what it raises stops that. `forks`: starts steps sooner.
    """

    settings: Settings
    scratch: Path
    tell: Tell
    log: Log
    alive: Callable[[], bool] = field(default=lambda: True)
    gate: Gate = field(default=_open_gate)
    forks: ForkServer | None = None

    async def do(self, step: str, *given: Any, bounds: Bounds | None = None, writes: bool = False) -> Any:
        """Runs `bot.jobs.child`'s step. Raises what it raises, and MergeError when it dies or uses too much.

        Raises HostError (`lease-lost`) when the executor was out of reach of its database for long. Cancelled, it
        leaves no process behind.
        """
        return await _Run(room=self, bounds=bounds or Bounds()).done(step, given, writes=writes)


class _Run:
    """One process, as long as it lives."""

    def __init__(self, *, room: Room, bounds: Bounds) -> None:
        self.room, self.bounds = room, bounds
        self._stdin: asyncio.StreamWriter | None = None

    async def done(self, step: str, given: tuple[Any, ...], *, writes: bool) -> Any:
        if (
            not self.room.alive()
        ):  # it would live for a while without a sign of life, and others may do the same by then
            raise lost()
        environment = step_environment(self.room.settings, scratch=self.room.scratch, writes=writes)
        async with _started(step, environment=environment, forks=self.room.forks) as (process, pipe):
            self._stdin = process.stdin
            await self._send(
                {
                    "given": given,
                    "file": self.bounds.file,
                    "patience": self.bounds.patience,
                    "anonymous": self.room.settings.anonymous,
                    "owned": tuple(self.room.settings.owned),
                },
                first=True,
            )
            try:
                async with asyncio.timeout(self.bounds.seconds):
                    last = await self._last(process, pipe)
            except TimeoutError:
                raise _too_long(self.bounds.seconds or 0) from None
        return self._result(last, code=process.returncode)

    async def _last(self, process: Process, pipe: asyncio.StreamReader) -> dict[str, Any]:
        """The last event; empty where the process has ended without one. Raises MergeError for too much disk."""
        hear = asyncio.create_task(self._hear(pipe))
        watch = asyncio.create_task(self._watch(process.pid))
        others = [asyncio.create_task(c) for c in (self._beat(), self._log(process))]
        try:
            await asyncio.wait({hear, watch}, return_when=asyncio.FIRST_COMPLETED)
            if watch.done():
                watch.result()
            last = await hear
            if not last:
                await process.wait()
            return last
        finally:
            for task in (hear, watch, *others):
                task.cancel()
            await asyncio.gather(hear, watch, *others, return_exceptions=True)

    def _result(self, last: dict[str, Any], *, code: int | None) -> Any:
        if "done" in last:
            return last["done"]
        if "failed" in last:
            raise exchange.raised(last["failed"])
        if "alone" in last:
            raise lost()
        raise _died(code)

    async def _hear(self, pipe: asyncio.StreamReader) -> dict[str, Any]:
        """Events until the last; empty where the process has ended without one."""
        meter = Meter(tell=self.room.tell, log=self.room.log)
        while line := await pipe.readline():
            event: dict[str, Any] = exchange.loads(line)
            if event.keys() & LAST:
                return event
            if "gate" in event:
                await self._send(await self._asked())
            else:
                replay(event, meter)
        return {}

    async def _asked(self) -> dict[str, Any]:
        try:
            await self.room.gate()
            if not self.room.alive():  # the answer would be a sign of life
                raise lost()
        except MergeBotError as error:
            return {"failed": exchange.failure(error, trace="")}
        return {"go": True}

    async def _beat(self) -> None:
        while True:
            if self.room.alive():
                await self._send(None)
            await asyncio.sleep(BEAT)

    async def _watch(self, pid: int) -> None:
        """Raises MergeError for too much memory or disk. A limit of the kernel's would have libraries hang or crash."""
        memory, disk = self.bounds.memory, self.bounds.disk
        for look in itertools.count(1):
            await asyncio.sleep(LOOKS)
            if memory is not None and await asyncio.to_thread(of_tree, pid) > memory:
                raise _too_much_memory(memory)
            if disk is not None and look % DISK == 0:
                used = await asyncio.to_thread(used_by, self.room.scratch)
                if used > disk:
                    raise _too_much_disk(used, disk)

    async def _log(self, process: Process) -> None:
        """What libraries print, a line at a time."""
        while process.stderr is not None and (line := await _line(process.stderr)):
            self.room.log(line.decode(errors="replace").rstrip())

    async def _send(self, message: dict[str, Any] | None, *, first: bool = False) -> None:
        if self._stdin is None:
            return
        data = b"\n" if message is None else exchange.dumps(message)
        with suppress(ConnectionError):  # it has ended, which the pipe will tell
            self._stdin.write(len(data).to_bytes(8, "big") + data if first else data)
            await self._stdin.drain()


@asynccontextmanager
async def _started(
    step: str, *, environment: dict[str, str], forks: ForkServer | None
) -> AsyncIterator[tuple[Process, asyncio.StreamReader]]:
    """The process, and what it says; in the end it is gone, with its whole group."""
    ours, theirs = os.pipe()
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(limit=LONGEST)
    heard = os.fdopen(ours, "rb")
    try:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), heard)
        try:
            process = await _begun(step, environment=environment, forks=forks, pipe=theirs)
        except BaseException:
            transport.close()
            raise
    finally:
        os.close(theirs)
    try:
        yield process, reader
    finally:
        transport.close()
        await asyncio.shield(_ended(process))


async def _begun(step: str, *, environment: dict[str, str], forks: ForkServer | None, pipe: int) -> Process:
    """Forked, or where nobody is there to fork it, a new interpreter. It says what it has to say into `pipe`."""
    command, environment = ["-m", "bot.jobs.child", step], environment | {"PYTHONPATH": _path()}
    process: Process | None = None
    if forks is not None:
        process = await forks.start(command, environment=environment, pipe=pipe)
    if process is None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, str(pipe),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
            pass_fds=(pipe,),
            start_new_session=True,
        )  # fmt: skip
    return process


def _path() -> str:
    """Where this process imports from."""
    return os.pathsep.join(str(Path(place).absolute()) for place in sys.path)


async def _ended(process: Process) -> None:
    """Asks it to stop, and then stops it."""
    for how, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            if process.returncode is None:
                os.killpg(process.pid, how)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
    with suppress(ProcessLookupError):  # what it may have left of its group
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin is not None:
        process.stdin.close()


async def _line(stream: asyncio.StreamReader) -> bytes:
    try:
        return await stream.readline()
    except ValueError:  # longer than the buffer
        return await stream.read(1 << 16)


def _too_long(seconds: float) -> MergeError:
    return MergeError(
        f"The job was not done in {seconds:g} seconds, which is its limit.",
        advice="Use a larger machine, or allow it more time.",
        code="out-of-time",
    )


def _too_much_memory(most: int) -> MergeError:
    return MergeError(
        f"The job took more than {size(most)} of memory, which is its limit.",
        advice="Use a machine with more memory, or allow it more.",
        code="out-of-memory",
    )


def _too_much_disk(used: int, most: int) -> MergeError:
    return MergeError(
        f"The job has written {used} bytes, and {most} were set aside for it.",
        advice="Report it with the adapter's and the base's names: the plan's estimate was too small.",
        code="scratch-overrun",
    )


def _died(code: int | None) -> MergeError:
    how = f"with exit code {code}"
    if code is not None and code < 0:
        how = f"by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        how += ", most likely because memory ran out"
    return MergeError(
        f"The job's process was ended {how}.", advice="Use a machine with more memory.", code="worker-died"
    )
