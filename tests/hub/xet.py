"""Xet storage in a folder, kept by the client's own library (`local://`): what files have in common lies there once.

That library locks the folder for as long as a session lives, so the hub's clients have to be in its own process.
"""

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENTRY = 48  # bytes: of the header, and of every record after it
VERIFIED, DESCRIBED = 1 << 31, 1 << 30  # flags of a file: a second list follows, its SHA-256 follows


class Cas:
    """The folder below the hub's root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "cas"
        self.folder.mkdir(exist_ok=True)
        self.writers: set[str] = set()  # keys of repositories that somebody was let upload to
        self._known: dict[str, tuple[str, int]] = {}
        self._read: set[Path] = set()

    @property
    def url(self) -> str:
        return f"local://{self.folder}"

    @property
    def bytes_stored(self) -> int:
        """Of chunks, as they lie there: compressed, with some bytes about each."""
        found = self.folder.glob("xet/xorbs/xorbs/default.*")
        return sum(path.stat().st_size for path in found if path.suffix != ".tagset")

    def put(self, path: Path, sha256: str) -> None:
        """Store a file, past all access rules."""
        with _session().new_upload_commit(endpoint=self.url) as commit:
            commit.start_upload_file(str(path), sha256=sha256)

    def forget_clients(self) -> None:
        """What clients remember of uploads goes; below `local://` it lies beside what is stored, for all of them."""
        for path in self.folder.glob("xet/shard-cache/*"):
            path.unlink()

    def find(self, sha256: str) -> tuple[str, int] | None:
        """Xet's hash of a file, and its size; None when no upload of it has come to its end."""
        for path in self.folder.glob("xet/xorbs/shards/*.mdb"):
            if path not in self._read:
                self._known.update(_files(path.read_bytes()))
                self._read.add(path)
        return self._known.get(sha256)

    def get(self, sha256: str) -> Iterator[bytes]:
        """The bytes of a file that `find` finds."""
        found = self.find(sha256)
        assert found is not None, "only what is there is asked for"
        from hf_xet import XetFileInfo  # a hub without Xet needs the standard library alone

        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            out = Path(folder, "file")
            with _session().new_file_download_group(endpoint=self.url) as group:
                group.start_download_file(XetFileInfo(*found), str(out))
            with out.open("rb") as file:
                while piece := file.read(1 << 20):
                    yield piece


def _session() -> Any:
    from hf_xet import XetSession

    return XetSession()


def _files(shard: bytes) -> Iterator[tuple[str, tuple[str, int]]]:
    """SHA-256 → Xet's hash and size, of the files of a metadata shard.

    https://huggingface.co/docs/xet/en/shard: a header, then for each file its hash, flags and how many records follow,
    one for each run of chunks; an entry of ones ends it.
    """
    at = ENTRY
    while (name := shard[at : at + 32]) != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        records = range(at + ENTRY, at + ENTRY * (count + 1), ENTRY)
        size = sum(struct.unpack_from("<I", shard, record + 36)[0] for record in records)
        at += ENTRY * (1 + count * (2 if flags & VERIFIED else 1))
        if flags & DESCRIBED:
            yield _hex(shard[at : at + 32]), (_hex(name), size)
            at += ENTRY


def _hex(digest: bytes) -> str:
    """Four numbers of eight bytes, the least significant byte first."""
    return "".join(digest[at : at + 8][::-1].hex() for at in range(0, 32, 8))
