"""A folder of model files, wherever it lies: the Protocol, and the local one. The Hub's is in `bot.clients`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bot.errors import InputError
from bot.progress import Progress
from bot.records import Pinned

MOST = 256 * 2**20  # bytes; the largest tokenizer.json that is known has 34 MB
PIECE = 16 * 2**20  # bytes that are read at a time


class Files(Protocol):
    """Files of one model at one immutable state, read in ranges so that headers cost no download."""

    @property
    def name(self) -> str:
        """What to call the place in a sentence."""

    def sizes(self) -> dict[str, int]:
        """Every file's name, relative with `/`, and its size in bytes."""

    def digests(self) -> dict[str, str]:
        """SHA-256 of those files whose digest is known without reading them."""

    def read(self, name: str, *, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` (exclusive; None: to the end) of a file."""


class LocalFiles:
    """The files of a local folder and of the folders directly in it.

    A link that leads out of it is followed to a file of the same name only, and to the blobs of a Hub cache: what a
    stranger's clone links to would else be published under another name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return str(self.folder)

    def sizes(self) -> dict[str, int]:
        try:
            found = [*self.folder.iterdir(), *self.folder.glob("[!.]*/*")]
            own = [p for p in found if p.is_file() and not _leads_away(p, self.folder)]
            return {p.relative_to(self.folder).as_posix(): p.stat().st_size for p in own}
        except OSError as error:
            raise unreadable(self.folder, error) from error

    def digests(self) -> dict[str, str]:
        return {}

    def read(self, name: str, *, start: int = 0, end: int | None = None) -> bytes:
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(start)
                return file.read() if end is None else file.read(max(0, end - start))
        except OSError as error:
            raise unreadable(self.folder / name, error) from error


def _leads_away(path: Path, folder: Path) -> bool:
    if not path.is_symlink() and not path.parent.is_symlink():
        return False
    target = path.resolve()
    blobs = folder.resolve().parents[1] / "blobs" if len(folder.resolve().parents) > 1 else folder
    inside = target.is_relative_to(folder.resolve()) or target.is_relative_to(blobs)
    return not inside and target.name != path.name


def read_small(files: Files, name: str) -> bytes:
    """A whole file of those that are read in one go. Raises InputError when it is too large to be one of them."""
    size = files.sizes()[name]
    if size > MOST:
        raise InputError(
            f"{name} of {files.name} has {size:,} bytes, and no such file has more than {MOST:,}.",
            advice="Look at what it is; download or save it again.",
            code="file-too-large",
        )
    return files.read(name)


def is_unicode(content: Any) -> bool:
    """Whether all that a JSON file says can be written again: a lone surrogate, half a character, cannot."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def digest(files: Files, name: str, *, size: int, progress: Progress | None = None) -> str:
    """The SHA-256 of a file of that size, which is read in pieces."""
    sha256 = hashlib.sha256()
    for start in range(0, size, PIECE):
        data = files.read(name, start=start, end=min(start + PIECE, size))
        sha256.update(data)
        if progress:
            progress.advance(len(data))
    return sha256.hexdigest()


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a local file that is missing or may not be read."""
    reason = (error.strerror or type(error).__name__).lower()
    return InputError(
        f"{path} cannot be read: {reason}.",
        advice="Check the path and its permissions.",
        code="file-unreadable",
    )


@dataclass(frozen=True)
class Model:
    """A model or an adapter at one immutable state: where it is, and its files."""

    pinned: Pinned
    files: Files


class Hub(Protocol):
    """Where models come from. Implemented over the real Hub in `bot.clients.hub_reader`."""

    def open(self, repo_id: str, *, revision: str | None = None, subfolder: str = "") -> Model:
        """The repository at the commit that `revision` names now. Raises InputError, AccessError or HostError."""

    def download(self, model: Model, *, names: list[str], progress: Progress) -> Path:
        """A local folder that holds these files of the model."""

    def adds(self, model: Model, *, names: list[str], beside: Path) -> int:
        """Bytes that `download` would take of the disk that the folder `beside` lies on."""

    def fetch(self, model: Model, *, name: str, out: Path, progress: Progress) -> Path:
        """One file of the model in the folder `out`, held against its digest, and nowhere else."""
