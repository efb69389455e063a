"""Repositories, commits, refs and discussions as small JSON files below one root; a restart finds everything again."""

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .blobs import Blobs
from .errors import HubError, entry_not_found, revision_not_found
from .records import Commit, Discussion, FileEntry, Repo, now
from .xet import Cas

REPO_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)


def write_json(path: Path, value: Any) -> None:
    """All or nothing: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
    Path(name).replace(path)


def read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else default


class Store:
    """All mutations hold `lock`; commits never change once written."""

    def __init__(self, root: Path, *, xet: bool = False) -> None:
        self.root = root
        self.blobs = Blobs(root)
        self.cas = Cas(root) if xet else None
        self.lock = threading.RLock()
        self._commits: dict[tuple[str, str], Commit] = {}
        loaded = (Repo(**json.loads(path.read_text("utf-8"))) for path in root.glob("repos/*/repo.json"))
        self._repos = {(repo.type, repo.id): repo for repo in loaded}
        self._moved: dict[str, str] = read_json(root / "moved.json", {})

    # repositories

    def all(self, repo_type: str) -> list[Repo]:
        with self.lock:
            return [repo for (kind, _), repo in self._repos.items() if kind == repo_type]

    def find(self, repo_type: str, repo_id: str) -> Repo | None:
        return self._repos.get((repo_type, repo_id))

    def by_key(self, key: str) -> Repo | None:
        with self.lock:
            return next((repo for repo in self._repos.values() if repo.key == key), None)

    def alias(self, old: str, new: str) -> None:
        """Another name, which may have no owner, for a model."""
        self._moved[f"models/{old}"] = new

    def moved(self, repo_type: str, repo_id: str) -> str | None:
        """The present name of a repository that was renamed."""
        return self._moved.get(f"{repo_type}s/{repo_id}")

    def folder(self, repo: Repo) -> Path:
        return self.root / "repos" / repo.key

    def save(self, repo: Repo) -> None:
        write_json(self.folder(repo) / "repo.json", asdict(repo))

    def create(self, repo_type: str, repo_id: str, *, author: str, private: bool = False) -> Repo:
        """As on the Hub, a new repository starts with one commit that holds .gitattributes."""
        if not REPO_ID.fullmatch(repo_id) or ".." in repo_id or "--" in repo_id:
            raise HubError(400, f"Invalid repository name: {repo_id}")
        with self.lock:
            repo = Repo(key=secrets.token_hex(12), type=repo_type, id=repo_id, private=private)
            files = {".gitattributes": self.blobs.add_bytes(GITATTRIBUTES)}
            first = self.add_commit(repo, parent=None, title="initial commit", author=author, files=files)
            repo.branches["main"] = first.oid
            self._moved.pop(f"{repo_type}s/{repo_id}", None)
            self._register(repo)
            return repo

    def _register(self, repo: Repo) -> None:
        self.save(repo)
        write_json(self.root / "moved.json", self._moved)
        self._repos[repo.type, repo.id] = repo

    def delete(self, repo: Repo) -> None:
        with self.lock:
            del self._repos[repo.type, repo.id]
            (self.folder(repo) / "repo.json").unlink()
            shutil.rmtree(self.folder(repo))

    def move(self, repo: Repo, new_id: str) -> None:
        with self.lock:
            if not REPO_ID.fullmatch(new_id) or self.find(repo.type, new_id):
                raise HubError(409, f"Cannot move {repo.id}: {new_id} exists already or is not a valid name")
            old = repo.id
            del self._repos[repo.type, old]
            repo.id = new_id
            self._moved = {
                k: new_id if v == old and k.startswith(repo.type) else v for k, v in self._moved.items()
            }
            self._moved.pop(f"{repo.type}s/{new_id}", None)
            self._moved[f"{repo.type}s/{old}"] = new_id
            self._register(repo)

    def own_object(self, repo: Repo, sha256: str) -> None:
        """Remember that this repository may refer to that LFS object."""
        with self.lock:
            if sha256 not in repo.objects:
                repo.objects.append(sha256)
                self.save(repo)

    def size_of(self, repo: Repo, sha256: str) -> int | None:
        """Of an LFS object that this repository may refer to, however it was uploaded; None when it may not."""
        uploads = self.cas and repo.key in self.cas.writers and self.cas
        if sha256 not in repo.objects and uploads and (found := uploads.find(sha256)):
            if self.blobs.size(sha256) is None:  # refused here when the client has told the wrong SHA-256
                self.blobs.receive(uploads.get(sha256), sha256=sha256, size=found[1])
            self.own_object(repo, sha256)
        return self.blobs.size(sha256) if sha256 in repo.objects else None

    def xet_hash(self, entry: FileEntry) -> str | None:
        found = self.cas.find(entry.sha256) if self.cas and entry.lfs else None
        return found[0] if found else None

    # commits

    def add_commit(
        self,
        repo: Repo,
        *,
        parent: str | None,
        title: str,
        author: str,
        files: Mapping[str, FileEntry],
        message: str = "",
    ) -> Commit:
        """Write a commit object; moving a ref to it is the caller's business."""
        content = Commit("", parent, title, message, author, now(), dict(sorted(files.items())))
        oid = hashlib.sha1((repo.key + json.dumps(content.to_json())).encode()).hexdigest()
        commit = Commit.from_json({**content.to_json(), "oid": oid})
        write_json(self.folder(repo) / "commits" / f"{oid}.json", commit.to_json())
        self._commits[repo.key, oid] = commit
        return commit

    def commit(self, repo: Repo, oid: str) -> Commit | None:
        """By its full id."""
        if (repo.key, oid) not in self._commits:
            path = self.folder(repo) / "commits" / f"{oid}.json"
            if not re.fullmatch("[0-9a-f]{40}", oid) or not path.exists():
                return None
            self._commits[repo.key, oid] = Commit.from_json(read_json(path, None))
        return self._commits[repo.key, oid]

    def resolve(self, repo: Repo, revision: str) -> Commit:
        """A branch, a tag, a full ref or a commit id."""
        named = repo.branches.get(revision.removeprefix("refs/heads/")) or repo.tags.get(revision)
        oid = named or repo.pulls.get(revision.removeprefix("refs/pr/")) or revision
        if commit := self.commit(repo, oid):
            return commit
        raise revision_not_found(revision)

    def entry(self, commit: Commit, path: str) -> FileEntry:
        if entry := commit.files.get(path):
            return entry
        raise entry_not_found(path, commit.oid)

    def history(self, repo: Repo, commit: Commit) -> Iterator[Commit]:
        """Newest first, along first parents."""
        step: Commit | None = commit
        while step:
            yield step
            step = self.commit(repo, step.parent) if step.parent else None

    # discussions

    def discussion(self, repo: Repo, num: int) -> Discussion | None:
        data = read_json(self.folder(repo) / "discussions" / f"{num}.json", None)
        return Discussion(**data) if data else None

    def discussions(self, repo: Repo) -> list[Discussion]:
        """Newest first."""
        nums = sorted((int(p.stem) for p in (self.folder(repo) / "discussions").glob("*.json")), reverse=True)
        return [found for num in nums if (found := self.discussion(repo, num))]

    def next_number(self, repo: Repo) -> int:
        return max([0, *(d.num for d in self.discussions(repo)), *map(int, repo.pulls)]) + 1

    def save_discussion(self, repo: Repo, discussion: Discussion) -> None:
        write_json(self.folder(repo) / "discussions" / f"{discussion.num}.json", asdict(discussion))


# fmt: off
LFS_SUFFIXES = (
    ".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz",
    ".h5", ".joblib", ".mlmodel", ".model", ".msgpack", ".npy", ".npz", ".onnx",
    ".ot", ".parquet", ".pb", ".pickle", ".pkl", ".pt", ".pth", ".rar",
    ".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip", ".zst",
)
# fmt: on
GITATTRIBUTES = "".join(f"*{s} filter=lfs diff=lfs merge=lfs -text\n" for s in LFS_SUFFIXES).encode()
