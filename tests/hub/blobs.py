"""Content on disk, named by its sha256; written under a temporary name and moved into place, never held in memory."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import HubError
from .records import FileEntry, git_oid

CHUNK = 1 << 20
LINK_ABOVE = 64 << 20  # smaller files are copied, so that a test may overwrite its own file in place


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The rest of a stream, piece by piece."""
    while piece := stream.read(CHUNK):
        yield piece


class Blobs:
    """The blob folder below the hub's root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "blobs"
        self.parts = root / "parts"
        self.incoming = root / "incoming"
        for folder in (self.folder, self.parts, self.incoming):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        return self.folder / sha256[:2] / sha256

    def size(self, sha256: str) -> int | None:
        """None when there is no such blob."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str) -> bytes:
        """Whole content: for small text files only."""
        return self.path(sha256).read_bytes()

    def _place(self, source: Path, sha256: str) -> None:
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        source.replace(target)

    def receive(self, pieces: Iterable[bytes], *, sha256: str, size: int) -> None:
        """Store a stream; refuse it with 422 when it is not what was announced."""
        digest, total = hashlib.sha256(), 0
        handle, name = tempfile.mkstemp(dir=self.incoming)
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    total += len(piece)
                    file.write(piece)
            if digest.hexdigest() != sha256 or total != size:
                raise HubError(422, f"Content does not match: got {total} bytes, sha256 {digest.hexdigest()}")
            self._place(Path(name), sha256)
        finally:
            Path(name).unlink(missing_ok=True)

    def add_bytes(self, content: bytes, *, lfs: bool = False) -> FileEntry:
        sha256 = hashlib.sha256(content).hexdigest()
        if self.size(sha256) is None:
            self.receive([content], sha256=sha256, size=len(content))
        return self._entry(sha256, len(content), None if lfs else git_oid(content))

    def add_file(self, source: Path, *, lfs: bool = False) -> FileEntry:
        """Take over a file: large ones by hard link where the file system allows, else by copy."""
        size = source.stat().st_size
        staged = Path(tempfile.mkdtemp(dir=self.incoming)) / "file"
        try:
            _link_or_copy(source, staged, link=size > LINK_ABOVE)
            sha256, oid = _digests(staged, size)
            if self.size(sha256) is None:
                self._place(staged, sha256)
        finally:
            shutil.rmtree(staged.parent)
        return self._entry(sha256, size, None if lfs else oid)

    def _entry(self, sha256: str, size: int, oid: str | None) -> FileEntry:
        return FileEntry(sha256, size, oid, False) if oid else FileEntry.large(sha256, size)

    def put_part(self, upload: str, number: int, pieces: Iterable[bytes]) -> str:
        """Store one part of a multipart upload; the answer is its ETag."""
        folder = self.parts / upload
        folder.mkdir(exist_ok=True)
        digest = hashlib.sha1()
        handle, name = tempfile.mkstemp(dir=self.incoming)
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        Path(name).replace(folder / f"{number:05}.{digest.hexdigest()}")
        return digest.hexdigest()

    def join_parts(self, upload: str, parts: list[tuple[int, str]], *, sha256: str, size: int) -> None:
        """Make one blob out of the parts that the client lists."""
        folder = self.parts / upload
        files = [folder / f"{number:05}.{etag}" for number, etag in sorted(parts)]
        if not all(file.exists() for file in files):
            raise HubError(422, "A part of this upload is missing")
        self.receive(_join(files), sha256=sha256, size=size)
        shutil.rmtree(folder, ignore_errors=True)


def _join(files: Iterable[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            yield from chunks(file)


def _link_or_copy(source: Path, target: Path, *, link: bool) -> None:
    try:
        if link:
            os.link(source.resolve(), target)
            return
    except OSError:
        pass
    shutil.copyfile(source, target)


def _digests(path: Path, size: int) -> tuple[str, str]:
    """sha256 and git's blob id in one pass."""
    sha256, oid = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as file:
        for piece in chunks(file):
            sha256.update(piece)
            oid.update(piece)
    return sha256.hexdigest(), oid.hexdigest()
