"""Turning a commit request into a commit: operations are read line by line, then applied to the parent's files."""

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .cards import complaints
from .errors import HubError, entry_not_found
from .records import Commit, FileEntry, Repo
from .store import Store

REGULAR_LIMIT = 10 << 20
Files = dict[str, FileEntry]
Change = Callable[[Files], None]


@dataclass
class Request:
    """A parsed NDJSON payload."""

    summary: str = ""
    description: str = ""
    parent: str | None = None
    changes: list[Change] = field(default_factory=list)


def clean_path(value: Any) -> str:
    path = str(value).strip("/")
    parts = path.split("/")
    if (
        not path
        or any(part in ("", ".", "..", ".git") for part in parts)
        or re.search(r"[\x00-\x1f\\]", path)
    ):
        raise HubError(400, f"Invalid path: {value!r}")
    return path


def parse(store: Store, repo: Repo, lines: Iterable[bytes]) -> Request:
    """Contents of regular files go to the blob store at once, so that one line is all that is held."""
    request = Request()
    for line in lines:
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise HubError(400, f"Invalid commit payload: {error}") from error
        if key == "header":
            request.summary, request.description = (
                str(value.get("summary", "")),
                str(value.get("description", "")),
            )
            request.parent = value.get("parentCommit")
        else:
            request.changes.append(_change(store, repo, key, value))
    if not request.summary:
        raise HubError(400, "A commit needs a summary")
    return request


def _change(store: Store, repo: Repo, key: str, value: dict[str, Any]) -> Change:
    path = clean_path(value.get("path"))
    if key == "file":
        return _put(path, _regular(store, path, value))
    if key == "lfsFile":
        return _put(path, _large(store, repo, path, str(value.get("oid"))))
    if key == "deletedFile":
        return lambda files: _delete(files, path)
    if key == "deletedFolder":
        return lambda files: _delete_folder(files, path)
    raise HubError(400, f"Unknown operation: {key}")


def _put(path: str, entry: FileEntry) -> Change:
    return lambda files: files.update({path: entry})


def _regular(store: Store, path: str, value: dict[str, Any]) -> FileEntry:
    text = str(value.get("content", ""))
    content = base64.b64decode(text) if value.get("encoding") == "base64" else text.encode()
    if len(content) > REGULAR_LIMIT:
        raise HubError(413, f"{path} is larger than 10 MiB and must be uploaded as an LFS file")
    return store.blobs.add_bytes(content)


def _large(store: Store, repo: Repo, path: str, sha256: str) -> FileEntry:
    size = store.size_of(repo, sha256)
    if size is None:
        raise HubError(
            400, f"{path}: the LFS pointer points to a file that does not exist in this repository"
        )
    return FileEntry.large(sha256, size)


def _delete(files: Files, path: str) -> None:
    if path not in files:
        raise entry_not_found(f"A file with this name doesn't exist: {path}")
    del files[path]


def _delete_folder(files: Files, path: str) -> None:
    inside = [name for name in files if name.startswith(path + "/")]
    if not inside:
        raise entry_not_found(f"A folder with this name doesn't exist: {path}")
    for name in inside:
        del files[name]


def build(store: Store, repo: Repo, request: Request, *, parent: Commit, author: str) -> Commit:
    """The new commit object; no ref points to it yet. An empty list of changes makes an empty commit."""
    files = dict(parent.files)
    for change in request.changes:
        change(files)
    card = files.get("README.md")
    if card and card != parent.files.get("README.md"):
        check_card(store.blobs.read(card.sha256).decode(errors="replace"))
    names = {"title": request.summary, "message": request.description, "author": author}
    return store.add_commit(repo, parent=parent.oid, files=files, **names)


def check_card(text: str) -> None:
    """Refuse metadata that the Hub refuses."""
    if found := complaints(text):
        raise HubError(
            400, "Invalid metadata in README.md.\n" + "\n".join(f"- Error: {line}" for line in found)
        )


def changed(base: Mapping[str, FileEntry], head: Mapping[str, FileEntry]) -> list[str]:
    return sorted(path for path in {*base, *head} if base.get(path) != head.get(path))


def conflicts(base: Commit, head: Commit, main: Commit) -> list[str]:
    """Paths that both sides changed since `base`, and not alike."""
    return [
        path
        for path in changed(base.files, head.files)
        if main.files.get(path) not in (base.files.get(path), head.files.get(path))
    ]


def merged(base: Commit, head: Commit, main: Commit) -> Files:
    """Main's files with the Hub PR's changes on top."""
    files = dict(main.files)
    for path in changed(base.files, head.files):
        if path in head.files:
            files[path] = head.files[path]
        else:
            files.pop(path, None)
    return files
