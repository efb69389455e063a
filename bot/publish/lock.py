"""One run a destination: an flock that the kernel releases even after a kill -9."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.errors import MergeError


@contextmanager
def locked(destination: Path) -> Iterator[None]:
    """Holds `.NAME.lock` beside the destination.

    Raises MergeError: `destination-busy` when another run holds it, else what the disk says.
    """
    path = destination.with_name(f".{destination.name}.lock")
    handle = _acquire(path, destination)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held, so nobody can be holding this name
        os.close(handle)


def _acquire(path: Path, destination: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same(handle, path):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise _busy(destination) from None
        except OSError as error:  # some network file systems have no locks
            os.close(handle)
            raise _lockless(destination, error) from error
        os.close(handle)  # the run that held it has just removed the file: the lock is on a name that is gone


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _busy(destination: Path) -> MergeError:
    return MergeError(
        f"Another run is writing to {destination} at this moment.",
        advice="Wait for it to end, or choose another folder.",
        code="destination-busy",
    )


def _lockless(destination: Path, error: OSError) -> MergeError:
    return MergeError(
        f"{destination.parent} does not allow files to be locked: {os.strerror(error.errno or 0).lower()}.",
        advice="Choose a folder on a local disk.",
        code="destination-unwritable",
    )
