"""Repositories of the Hub that lie in folders of this machine already, as volumes of a job do: used where they are.

The Hub still says what is in them, at which commit; each file is held against its word before it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from bot.errors import MergeError
from bot.progress import Progress
from bot.records import Pinned
from bot.weights.files import PIECE, LocalFiles, Model, digest, unreadable


def folder(mounts: Mapping[str, Path], pinned: Pinned) -> Path | None:
    """Where this repository lies at this commit, without its subfolder; None: nowhere."""
    return mounts.get(f"{pinned.location}@{pinned.commit}")


def check(model: Model, place: Path, *, names: list[str], ids: Mapping[str, str], progress: Progress) -> None:
    """Reads the files at `place` and holds them against the Hub's digests: SHA-256 of large ones, else git's `ids`.

    Raises MergeError for the first that is missing or differs.
    """
    sizes, digests, files = model.files.sizes(), model.files.digests(), LocalFiles(place)
    progress.begin(f"Reading {model.pinned.location}", total=sum(sizes[name] for name in names))
    for name in names:
        try:
            same = (place / name).stat().st_size == sizes[name]
        except OSError as error:
            raise _differs(model, place, name) from error
        if same and name in digests:
            same = digest(files, name, size=sizes[name], progress=progress) == digests[name]
        elif same:
            same = _git_id(place / name) == ids.get(name)
        if not same:
            raise _differs(model, place, name)
    progress.end()


def _git_id(path: Path) -> str:
    """What git calls a file of this content: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects."""
    try:
        with path.open("rb") as file:
            made = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            while data := file.read(PIECE):
                made.update(data)
    except OSError as error:
        raise unreadable(path, error) from error
    return made.hexdigest()


def _differs(model: Model, place: Path, name: str) -> MergeError:
    return MergeError(
        f"{place / name} is not the file that {model.pinned} has on the Hub.",
        advice="Mount that commit there, or leave it out of MERGE_BOT_MOUNTS to have it downloaded.",
        code="mount-differs",
    )
