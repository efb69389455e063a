"""What the hub remembers: file entries, commits, repositories, discussions, and how they look as JSON on disk."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}


def now() -> str:
    """The Hub's timestamp format: UTC with milliseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def git_oid(content: bytes) -> str:
    """The id git gives to a blob with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md#the-pointer"""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class FileEntry:
    """One path of one commit. `oid` is git's blob id (of the pointer for LFS), `sha256` names the content."""

    sha256: str
    size: int
    oid: str
    lfs: bool

    @classmethod
    def large(cls, sha256: str, size: int) -> "FileEntry":
        return cls(sha256, size, git_oid(lfs_pointer(sha256, size)), True)

    @property
    def pointer_size(self) -> int:
        return len(lfs_pointer(self.sha256, self.size))

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """An immutable snapshot of all files."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, FileEntry]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Commit":
        return cls(**{**data, "files": {path: FileEntry(**entry) for path, entry in data["files"].items()}})


@dataclass
class Repo:
    """A repository: its name, who may see it, and where its refs point. `key` survives renames."""

    key: str
    type: str
    id: str
    private: bool = False
    gated: str | bool = False
    created: str = field(default_factory=now)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[str, str] = field(default_factory=dict)
    grants: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def page(self) -> str:
        """The path of its web page, without the leading slash."""
        return PREFIX[self.type] + self.id

    @property
    def main(self) -> str:
        return self.branches["main"]


@dataclass
class Discussion:
    """A thread, or a Hub PR when `base` names the commit that it started from."""

    num: int
    title: str
    author: str
    status: str = "open"
    created: str = field(default_factory=now)
    base: str | None = None
    merge_commit: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pull_request(self) -> bool:
        return self.base is not None

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"
