"""Scratch space, which several executors of one machine may share: set aside before a job starts, gone after it.

A job's folder is there as long as `NAME.space` beside it is locked; the file says how many bytes it may use. The
kernel lets go of the lock when its holder is killed, and the next look clears away what that left.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from bot.errors import MergeError
from bot.wording import size

T = TypeVar("T")
LOOKS = 2.0  # seconds between two looks at whether there is room now
SPARE = 256 * 2**20  # bytes that a job is given beside its estimate: temporary files, reports, pictures
SPACE = ".space"


class Scratch:
    """The folder. `most`: bytes that all jobs in it may use together; None: as much as the disk has."""

    def __init__(self, root: Path, *, most: int | None = None, spare: int = SPARE) -> None:
        """Raises MergeError when the folder belongs to somebody else, or cannot be made."""
        self._root, self._most, self._spare = root, most, spare
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            foreign = root.is_symlink() or root.stat().st_uid != os.getuid()
        except OSError as error:
            raise MergeError(
                f"The scratch folder {root} cannot be made: {error.strerror}.",
                advice="Name a folder that this user may write to as `scratch` of [worker].",
                code="scratch-unwritable",
            ) from error
        if foreign:
            raise MergeError(
                f"{root} belongs to somebody else.",
                advice="Name a folder of your own as `scratch` of [worker].",
                code="scratch-foreign",
            )

    @asynccontextmanager
    async def reserved(
        self, name: str, *, needed: int, waits: Callable[[str], None], keeps: Callable[[], bool]
    ) -> AsyncIterator[tuple[Path, int]]:
        """The folder `name`, and the bytes that it may take: `needed`, as the plan says, and something to spare.

        Waits while others hold the space; `waits` is told so, once. What a killed run has left in the folder is still
        there; in the end it is gone, but for one that is cancelled while `keeps` says that somebody will go on with it.
        Raises MergeError (`scratch-full`) for what does not fit when nobody holds any.
        """
        told = False
        while (handle := await self._reservation(name, needed + self._spare, keeps)) is None:
            if not told:
                waits(f"Waiting for {size(needed + self._spare)} of scratch space")
            told = True
            await asyncio.sleep(LOOKS)
        folder = self._root / name
        kept = False
        try:
            yield folder, needed + self._spare
        except asyncio.CancelledError:
            kept = keeps()
            raise
        finally:
            # Not in the event loop, which sends steps their signs of life while a large folder goes.
            await in_full(asyncio.to_thread(self._released, name, handle, kept=kept))

    def sweep(self, *, keep: frozenset[str] = frozenset()) -> None:
        """Clears away what nobody works on and nobody will go on with; `keep` are names that somebody will."""
        with self._locked():
            held = self._held()
            for path in [*self._root.iterdir()]:
                name = path.name.removesuffix(SPACE)
                if name not in held and name not in keep and not path.name.startswith("."):
                    _removed(path)

    async def _reservation(self, name: str, needed: int, keeps: Callable[[], bool]) -> int | None:
        """As `_taken`. Called off meanwhile, it leaves nothing reserved: the thread goes on by itself."""
        taking = asyncio.ensure_future(asyncio.to_thread(self._taken, name, needed))

        async def given_back() -> None:
            with suppress(MergeError):
                if (handle := await taking) is not None:
                    await asyncio.to_thread(self._released, name, handle, kept=keeps())

        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await in_full(given_back())
            raise

    def _taken(self, name: str, needed: int) -> int | None:
        with self._locked():
            held = self._held()
            if (
                name in held
            ):  # the same make, by an executor that is about to hear that it is not its own any more
                return None
            room, why = self._room(held, besides=self._root / name)
            if needed > room:
                if held:
                    return None
                raise _full(needed, room, why)
            handle = os.open(self._root / f"{name}{SPACE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(needed).encode(), 0)
            (self._root / name).mkdir(mode=0o700, exist_ok=True)
            return handle

    def _room(self, held: dict[str, int], *, besides: Path) -> tuple[int, str]:
        """Bytes for one more, and what sets that limit. What the others have yet to write is theirs already."""
        unwritten = sum(max(0, most - used_by(self._root / name)) for name, most in held.items())
        free = shutil.disk_usage(self._root).free - unwritten + used_by(besides)
        if self._most is None or free < self._most - sum(held.values()):
            return free, "are free on its disk"
        return self._most - sum(held.values()), "are allowed by `scratch_bytes`"

    def _held(self) -> dict[str, int]:
        """The reservations of those who live, in bytes."""
        found: dict[str, int] = {}
        for path in self._root.glob(f"*{SPACE}"):
            with suppress(FileNotFoundError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    found[path.name.removesuffix(SPACE)] = int(file.read() or 0)
        return found

    def _released(self, name: str, handle: int, *, kept: bool) -> None:
        with self._locked():
            if not kept:
                _removed(self._root / name)
                (self._root / f"{name}{SPACE}").unlink(missing_ok=True)
            os.close(handle)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One look or change at a time."""
        handle = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


async def in_full(work: Awaitable[T]) -> T:
    """What it comes to, also where we are cancelled meanwhile; that is then passed on."""
    going, cancelled = asyncio.ensure_future(work), False
    while not going.done():
        try:
            await asyncio.wait({going})
        except asyncio.CancelledError:
            cancelled = True
    done = going.result()
    if cancelled:
        raise asyncio.CancelledError
    return done


def used_by(folder: Path) -> int:
    """Bytes on disk of everything in the folder; what vanishes meanwhile counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _full(needed: int, room: int, why: str) -> MergeError:
    return MergeError(
        f"The job needs {size(needed)} of scratch space, and {size(max(0, room))} {why}.",
        advice="Give the worker a larger disk, or send the job to a larger runner.",
        code="scratch-full",
    )
