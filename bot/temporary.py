"""Temporary folders that outlive nobody: each is locked by its owner, and one whose owner was killed is swept later."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

YOUNG = 60.0  # seconds in which a folder may not have its lock yet


class TemporaryFolder:
    """A folder of its own in the system's temporary one, for as long as this object is in use.

    `purpose` is a word in its name; `root` the folder that it is in, in place of the system's temporary one. Raises
    OSError as it comes from the disk.
    """

    def __init__(self, purpose: str, *, root: Path | None = None) -> None:
        prefix = f"merge-bot-{purpose}-"
        place = Path(tempfile.gettempdir()) if root is None else root
        _sweep(place, f"{prefix}*")
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with suppress(OSError):  # a file system without locks: then nobody can take it for abandoned either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._finalizer = weakref.finalize(self, _remove, self.path, handle)

    def close(self) -> None:
        """Removes it, once."""
        self._finalizer()


def _sweep(place: Path, pattern: str) -> None:
    """Removes what killed processes of this user have left."""
    for path in place.glob(pattern):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                state = os.fstat(handle)
                if state.st_uid != os.getuid() or time.time() - state.st_mtime < YOUNG:
                    continue
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def _remove(path: Path, handle: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(handle)
