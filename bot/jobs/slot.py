"""Which executor this process is: a name that stays the same when it is started again, and that nobody else has."""

from __future__ import annotations

import fcntl
import os
import platform
import re
from itertools import count
from pathlib import Path
from uuid import uuid4

from bot.errors import InputError

ODD = re.compile(r"[^\w.-]", re.ASCII)


class Slot:
    """The first free slot of a folder; a process that was killed frees its own.

    The name lies in the slot's file: two machines of one name, each with a disk of its own, are still two executors.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError for a folder that cannot be written to."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._handle = next(h for number in count() if (h := _locked(folder / str(number))) is not None)
        except OSError as error:
            raise InputError(
                f"{folder} cannot be used: {error.strerror}.",
                advice="Name a folder that this user may write to as `state` of [server].",
                code="no-state",
            ) from error
        self.name = os.pread(self._handle, 200, 0).decode("ascii", "ignore").strip()
        if not self.name:
            self.name = f"{ODD.sub('-', platform.node())[:40]}-{uuid4().hex[:8]}"
            os.pwrite(self._handle, self.name.encode(), 0)
            os.fsync(self._handle)

    def close(self) -> None:
        """Frees it."""
        os.close(self._handle)


def _locked(path: Path) -> int | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
