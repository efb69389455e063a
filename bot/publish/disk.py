"""What a disk says when it declines → our errors."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.errors import MergeBotError, MergeError
from bot.wording import size

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def explained(place: Path, *, needed: int | None = None) -> Iterator[None]:
    """Around work that writes beside `place`. Raises MergeError in place of the disk's errors; others pass through."""
    try:
        yield
    except MergeBotError:
        raise
    except Exception as error:
        number = _number(error)
        ours = _ours(number, error, place, needed)
        if ours is None:
            raise
        raise ours from error


def own_scratch(root: Path, *, setting: str) -> None:
    """Makes the folder for unfinished work, for this user alone, where it is missing. `setting` names another one.

    Raises MergeError where it cannot be made (`scratch-unwritable`) or belongs to somebody else (`scratch-foreign`).
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = root.is_symlink() or root.stat().st_uid != os.getuid()
    except OSError as error:
        raise MergeError(
            f"The scratch folder {root} cannot be made: {os.strerror(error.errno or 0).lower()}.",
            advice=f"Set {setting} to a folder that this user may write to.",
            code="scratch-unwritable",
        ) from error
    if foreign:
        raise MergeError(
            f"{root} belongs to somebody else.",
            advice=f"Set {setting} to a folder of your own.",
            code="scratch-foreign",
        )


def _number(error: Exception) -> int | None:
    """The errno; safetensors' Rust code has it in its text only."""
    if isinstance(error, OSError):
        return error.errno
    known = (*FULL, errno.EFBIG)
    return next((number for number in known if f"(os error {number})" in str(error)), None)


def _ours(number: int | None, error: Exception, place: Path, needed: int | None) -> MergeError | None:
    if number in FULL:
        return _full(place, needed)
    if number == errno.EFBIG:
        return MergeError(
            f"The file system of {place.parent} does not take files that large.",
            advice="Choose a folder on another disk; FAT and a process limit (ulimit -f) have such a bound.",
            code="file-too-large",
        )
    here = _concerns(error, place)
    if number in DENIED and here:
        return MergeError(
            f"{place.parent} cannot be written to: {os.strerror(number or 0).lower()}.",
            advice="Choose another folder, or give this user the permission to write there.",
            code="destination-denied",
        )
    if number is None or not here:
        return None
    return MergeError(
        f"{place} cannot be written: {os.strerror(number).lower()}.",
        advice="Choose another folder.",
        code="destination-unwritable",
    )


def _concerns(error: Exception, place: Path) -> bool:
    """Whether the error names the destination or a sibling: a base model that may not be read is another matter."""
    named = getattr(error, "filename", None)
    if not isinstance(named, str | os.PathLike):
        return False
    path = Path(named).resolve()
    own = (place.name, f".{place.name}.")
    return path in {place.parent, *place.parents} or (
        path.is_relative_to(place.parent) and path.relative_to(place.parent).parts[0].startswith(own)
    )


def _full(place: Path, needed: int | None) -> MergeError:
    free = _free(place.parent)
    amount = f"The result takes {size(needed)}; make room" if needed else "Make room"
    return MergeError(
        f"The disk of {place.parent} is full ({size(free)} free).",
        advice=f"{amount}, or choose a folder on a larger disk.",
        code="disk-full",
    )


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
