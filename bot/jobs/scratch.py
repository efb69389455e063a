"""Scratch space, which several executors of one machine may share: set aside before a job starts, gone after it.

A job's folder is there as long as `NAME.space` beside it is locked; the file says how many bytes it may use, and which
models of the cache. The kernel lets go of the lock when its holder is killed, and the next look clears away what that
left.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from bot.errors import MergeError
from bot.jobs.cache import Cache
from bot.publish.disk import own_scratch
from bot.wording import size

T = TypeVar("T")
log = logging.getLogger("bot.jobs")
LOOKS = 2.0  # seconds between two looks at whether there is room now
SPARE = 256 * 2**20  # bytes that a job is given beside its estimate: temporary files, reports, pictures
SPACE, CACHE = ".space", ".cache"
# A make, a shard of one (`queues.shard_id`), and what is planned (`planning.Planning.planned`, `doors.asked.job_key`).
# The folder may be one that others write into, too, such as the image's /scratch.
OURS = re.compile(r"[0-9a-f]{32}-\d+(\.\d+)?|plan-[0-9a-f]{32}(-\w{1,12})?", re.ASCII)
FREE = "are free on its disk"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job needs: bytes in all, how many of them it fetches into the cache, and which models it has there.

    `uses`: as `owner/name@commit`.
    """

    size: int
    fetches: int = 0
    uses: frozenset[str] = frozenset()


class Scratch:
    """The folder. `most`: bytes that all jobs in it may use together; None: as much as the disk has.

    `cache`: where they fetch to; all who share it share the folder, too.
    """

    def __init__(
        self, root: Path, *, most: int | None = None, spare: int = SPARE, cache: Cache | None = None
    ) -> None:
        """Makes the folder. Raises MergeError when it belongs to somebody else, or cannot be made."""
        self._root, self._most, self._spare = root, most, spare
        self._cache = cache or Cache(folder=root / CACHE)
        own_scratch(root, setting="`scratch` of [worker]")

    @asynccontextmanager
    async def reserved(
        self, name: str, *, needs: Needs, waits: Callable[[str], None], keeps: Callable[[], bool]
    ) -> AsyncIterator[tuple[Path, int]]:
        """The folder `name`, and the bytes that it may take: what it needs, as the plan says, and something to spare.

        What the cache has already is not needed once more, and what stands in the way there goes, unless somebody uses
        it. Waits while others hold the space; `waits` is told so, once. What a killed run has left in the folder is
        still there; in the end it is gone, but for one that is cancelled while `keeps` says that somebody will go on
        with it.
        Raises MergeError (`scratch-full`) for what does not fit when nobody holds any, or (`scratch-unwritable`) where
        the disk does not take it.
        """
        told, needs = False, replace(needs, size=needs.size + self._spare)
        while (handle := await self._reservation(name, needs, keeps)) is None:
            if not told:
                waits(f"Waiting for {size(needs.size)} of scratch space")
            told = True
            await asyncio.sleep(LOOKS)
        folder = self._root / name
        kept = False
        try:
            yield folder, needs.size
        except asyncio.CancelledError:
            kept = keeps()
            raise
        finally:
            # Not in the event loop, which sends steps their signs of life while a large folder goes.
            await in_full(asyncio.to_thread(self._released, name, handle, kept=kept))

    def sweep(self, *, keep: frozenset[str] = frozenset()) -> None:
        """Clears away what nobody works on and nobody will go on with; `keep` are names that somebody will.

        And what the cache has more than it may. What has no name of ours stays: it is somebody else's.
        """
        with self._locked():
            held = self._held()
            for path in [*self._root.iterdir()]:
                name = path.name.removesuffix(SPACE)
                if OURS.fullmatch(name) and name not in held and name not in keep:
                    _removed(path)
            self._cache.tidy(keep=_used(held))

    async def _reservation(self, name: str, needs: Needs, keeps: Callable[[], bool]) -> int | None:
        """As `_taken`. Called off meanwhile, it leaves nothing reserved: the thread goes on by itself."""
        taking = asyncio.ensure_future(asyncio.to_thread(self._taken, name, needs))

        async def given_back() -> None:
            with suppress(MergeError):
                if (handle := await taking) is not None:
                    await asyncio.to_thread(self._released, name, handle, kept=keeps())

        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            await in_full(given_back())
            raise

    def _taken(self, name: str, needs: Needs) -> int | None:
        with self._locked():
            held = self._held()
            if (
                name in held
            ):  # the same make, by an executor that is about to hear that it is not its own any more
                return None
            there = min(needs.fetches, self._cache.use(needs.uses))
            needs = replace(needs, size=needs.size - there, fetches=needs.fetches - there)
            if why := self._objection(needs, held, besides=self._root / name):
                if held:
                    return None
                raise why
            handle = os.open(self._root / f"{name}{SPACE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(handle, 0)
                os.pwrite(handle, "\n".join([str(needs.size), *needs.uses]).encode(), 0)
                (self._root / name).mkdir(mode=0o700, exist_ok=True)
            except BaseException:  # else it would be held by nobody, for as long as this process lives
                os.close(handle)
                raise
            return handle

    def _objection(self, needs: Needs, held: dict[str, Needs], *, besides: Path) -> MergeError | None:
        """Why there is no room, if so, once the cache has given what it can."""
        keep = needs.uses | _used(held)
        room, why = self._room(held, besides=besides)
        if needs.size > room and why == FREE and self._cache.shares_disk(self._root):
            self._cache.give(needs.size - room, keep=keep)
            room, why = self._room(held, besides=besides)
        if needs.size > room:
            return _full(needs.size, room, why)
        room = self._cache.room(needs.fetches, keep=keep)
        return _full(needs.fetches, room, "are free on the cache's disk") if needs.fetches > room else None

    def _room(self, held: dict[str, Needs], *, besides: Path) -> tuple[int, str]:
        """Bytes for one more, and what sets that limit. What the others have yet to write is theirs already."""
        unwritten = sum(max(0, one.size - used_by(self._root / name)) for name, one in held.items())
        free = shutil.disk_usage(self._root).free - unwritten + used_by(besides)
        taken = sum(one.size for one in held.values())
        if self._most is None or free < self._most - taken:
            return free, FREE
        return self._most - taken, "are allowed by `scratch_bytes`"

    def _held(self) -> dict[str, Needs]:
        """The reservations of those who live."""
        found: dict[str, Needs] = {}
        for path in self._root.glob(f"*{SPACE}"):
            with suppress(FileNotFoundError, IsADirectoryError), path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    most, *uses = file.read().decode().split("\n")
                    found[path.name.removesuffix(SPACE)] = Needs(size=int(most or 0), uses=frozenset(uses))
        return found

    def _released(self, name: str, handle: int, *, kept: bool) -> None:
        try:
            with self._locked():
                if not kept:
                    _removed(self._root / name)
                    (self._root / f"{name}{SPACE}").unlink(missing_ok=True)
        except MergeError as error:  # the job has ended as it has; what is left goes with the next sweep
            log.warning("not cleared away: %s", error.sentence)
        finally:
            os.close(handle)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One look or change at a time. Raises MergeError where the disk does not let us, as when it is full."""
        try:
            handle = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)
        except OSError as error:
            raise MergeError(
                f"The scratch folder {self._root} cannot be used: {error.strerror or error}.",
                advice="Make room on its disk, and see that this user may write there.",
                code="scratch-unwritable",
            ) from error


def _used(held: dict[str, Needs]) -> frozenset[str]:
    return frozenset().union(*(one.uses for one in held.values()))


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
