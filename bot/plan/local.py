"""Models in local folders: opened, and pinned by a fingerprint of what they hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bot.errors import InputError
from bot.records import Pinned
from bot.weights.files import LocalFiles, Model, unreadable

SAMPLE = (
    65_536  # bytes read at each end of a large file: its header, and what a rewrite in place would change
)
WHOLE = 64 * 2**20  # files up to this size are read whole


def open_folder(folder: Path) -> Model:
    """The model in a folder. Raises InputError when there is none."""
    path = folder.expanduser().absolute()
    if not path.is_dir():
        raise InputError(
            f"There is no folder {folder}.",
            advice="Check the path; a Hub repository is written owner/name.",
            code="no-such-folder",
        )
    return Model(Pinned(kind="folder", location=str(path), commit=fingerprint(path)), LocalFiles(path))


def fingerprint(folder: Path) -> str:
    """`sha256:…` over names, sizes and content of the files directly in the folder.

    What lies in subfolders (an earlier merge, say) is another model's. Of files too large to be read in passing,
    content means both ends and the time of the last change.
    """
    digest = hashlib.sha256()
    top = {name: size for name, size in LocalFiles(folder).sizes().items() if "/" not in name}
    for name, size in sorted(top.items()):
        digest.update(f"{name}\0{size}\0".encode())
        _feed(digest, folder / name, size=size)
    return f"sha256:{digest.hexdigest()}"


def _feed(digest: hashlib._Hash, path: Path, *, size: int) -> None:
    try:
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                return
            digest.update(file.read(SAMPLE))
            file.seek(-SAMPLE, 2)
            digest.update(file.read(SAMPLE))
            digest.update(str(path.stat().st_mtime_ns).encode())
    except OSError as error:
        raise unreadable(path, error) from error
