"""Files of a commit on GitHub, through its API: no checkout, no link followed, nothing executed, every size bounded."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bot.clients.github_answers import entries
from bot.clients.github_api import Api, Token, checked_repository
from bot.clients.github_errors import translated
from bot.clients.github_lfs import LargeFiles, Pointer, pointer
from bot.errors import InputError, RefusedError
from bot.forge import Entry

CONTENTS = "contents: read"
MOST = 1000  # files of a folder; an adapter has ten


class Files:
    """Reads with the repository's own token; LFS files, too, which are kept beside the API."""

    def __init__(self, api: Api, *, token: Token) -> None:
        self._api = api
        self._large = LargeFiles(api, token=token)

    def read(self, path: str, *, ref: str, repository: str | None, limit: int) -> bytes | None:
        """As `Forge.read_file`: from the repository itself, and where that does not know the commit, from the fork."""
        for place in self._places(repository):
            url = f"/repos/{place}/contents/{quote('/'.join(_parts(path)))}"
            found = self._api.find(url, what=f"read {path}", read=_file, needs=CONTENTS, ref=ref)
            if found is not None:
                return self._content(found, path, place, limit)
        return None

    def _content(self, found: dict[str, Any], path: str, place: str, limit: int) -> bytes:
        if found["type"] != "file":
            raise _refused(path, found["type"])
        if found["size"] > limit:
            raise _too_large(path, limit)
        if found["encoding"] == "base64":
            return base64.b64decode(found["content"])
        return self._blob(found["sha"], path, place)  # GitHub leaves the content of larger files out

    def entries(self, path: str, *, ref: str) -> tuple[Entry, ...]:
        """As `Forge.list_folder`."""
        return tuple(entry for entry, _ in self._tree(path, ref) or ())

    def download(self, path: str, *, ref: str, into: Path, limit: int, repository: str | None) -> None:
        """As `Forge.download_folder`."""
        label, tree = path or "the repository", self._tree(path, ref)
        if tree is None:
            raise InputError(
                f"There is no folder {label} at commit {ref[:12]} of {self._api.repository}.",
                advice="Look at the files of the GitHub PR for the right one.",
                code="no-such-subfolder",
            )
        files = [(entry, sha) for entry, sha in tree if entry.kind != "folder"]
        _check(files, label, limit)
        with translated(f"download {label}"):
            large = self._save(files, into, label)
        if sum(p.size for p in large.values()) + sum(entry.size for entry, _ in files) > limit:
            raise _too_large(label, limit)
        self._large.fetch(large, places=self._places(repository))

    def _save(self, files: list[tuple[Entry, str]], into: Path, label: str) -> dict[Path, Pointer]:
        """Write the files that are here; the answer is what is in large file storage, and where it belongs."""
        into.mkdir(parents=True, exist_ok=True)
        large = {}
        for entry, sha in files:
            data = self._blob(sha, f"{label}/{entry.name}", self._api.repository)
            if found := pointer(data):
                large[into / entry.name] = found
                continue
            with (into / entry.name).open("xb") as file:
                file.write(data)
        return large

    def _blob(self, sha: str, path: str, place: str) -> bytes:
        return self._api.ask(
            "GET", f"/repos/{place}/git/blobs/{sha}", what=f"read {path}", read=_decoded, needs=CONTENTS
        )

    def _tree(self, path: str, ref: str) -> list[tuple[Entry, str]] | None:
        """What a folder holds, found folder by folder: GitHub's listings of paths would follow links."""
        parts = _parts(path)
        tree = self._folder(ref, path)
        for part in parts:
            found = next(((entry, sha) for entry, sha in tree or () if entry.name == part), None)
            if found is None:
                return None
            entry, sha = found
            if entry.kind in {"symlink", "submodule"}:
                raise _refused(path, entry.kind)
            tree = self._folder(sha, path) if entry.kind == "folder" else None
        return tree

    def _folder(self, sha: str, path: str) -> list[tuple[Entry, str]] | None:
        what = f"list {path or 'the repository'}"
        return self._api.find(f"git/trees/{quote(sha, safe='')}", what=what, read=entries, needs=CONTENTS)

    def _places(self, repository: str | None) -> tuple[str, ...]:
        own = self._api.repository
        return (own,) if repository in {None, own} else (own, checked_repository(str(repository)))


def _file(answer: Any) -> dict[str, Any]:
    if isinstance(answer, list):  # GitHub lists a folder so
        return {"type": "folder"}
    facts = {key: answer.get(key) for key in ("type", "encoding", "content", "sha")}
    return {**facts, "size": int(answer.get("size") or 0)}


def _decoded(answer: Any) -> bytes:
    data = base64.b64decode(answer["content"])
    if answer["encoding"] != "base64" or len(data) != answer["size"]:
        raise ValueError("not the whole file")
    return data


def _parts(path: str) -> list[str]:
    """The folders of a path, from the top. Raises InputError for what leaves the repository."""
    parts = [part for part in path.split("/") if part]
    if any(not _is_plain(part) for part in parts):
        raise InputError(
            f"{path[:200]!r} is no path in a repository.",
            advice="Give the folder as the GitHub PR shows it.",
            code="github-bad-path",
        )
    return parts


def _is_plain(name: str) -> bool:
    """Whether a file of that name stays in its folder, and can be shown; git's own folder is none of an adapter."""
    return (
        name.casefold() not in {"", ".", "..", ".git"} and name.isprintable() and not {"/", "\\"} & set(name)
    )


def _check(files: list[tuple[Entry, str]], label: str, limit: int) -> None:
    """Before anything is fetched. Raises RefusedError."""
    for entry, _ in files:
        if not _is_plain(entry.name):
            raise _refused(f"{label}/{entry.name!r}", "name that a folder should not hold")
        if entry.kind != "file":
            raise _refused(f"{label}/{entry.name}", entry.kind)
    if len(files) > MOST or sum(entry.size for entry, _ in files) > limit:
        raise _too_large(label, limit)


def _refused(path: str, kind: str) -> RefusedError:
    return RefusedError(
        f"{path[:200]} is a {kind}, and only plain files are taken from a GitHub PR.",
        advice="Put the adapter's own files into its folder.",
        code="not-a-file",
    )


def _too_large(path: str, limit: int) -> RefusedError:
    return RefusedError(
        f"{path[:200]} is larger than {limit / 1e6:,.1f} MB, or has more than {MOST} files.",
        advice="Leave what is no part of the adapter out of its folder, or raise the limit.",
        code="too-large",
    )
