"""Files in Git LFS: what a pointer stands for, fetched over the batch API and held against the pointer.

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md. The repository's own `.lfsconfig` is not read: it could
name any server.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from bot.clients.github_api import Api, Token, web_url
from bot.clients.github_errors import translated
from bot.clients.github_retry import AGAIN
from bot.errors import HostError, InputError

POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-\d-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,14})\n"
)
JSON = "application/vnd.git-lfs+json"
BATCH = 100  # objects that GitHub takes in one question
T = TypeVar("T")
CONTENTS = "contents: read"


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What git holds in place of a large file: its SHA-256 and how many bytes it has."""

    oid: str
    size: int


def pointer(data: bytes) -> Pointer | None:
    """The pointer that a file is; None when it is a file of its own."""
    found = POINTER.fullmatch(data)
    return Pointer(oid=found[1].decode(), size=int(found[2])) if found else None


class LargeFiles:
    """The storage of a repository's large files, beside its API."""

    def __init__(self, api: Api, *, token: Token) -> None:
        self._site, self._token = web_url(api.url), token
        self._timeout, self._attempts = api.timeout, api.attempts

    def _auth(self) -> tuple[str, str]:
        return "x-access-token", self._token if isinstance(self._token, str) else self._token()

    def fetch(self, wanted: Mapping[Path, Pointer], *, places: tuple[str, ...]) -> None:
        """Every pointer's file to its path, from the first of the repositories that has it.

        Raises InputError when none has it, AccessError and HostError as for all of GitHub.
        """
        if not wanted:
            return
        with (
            translated("fetch files in Git LFS", needs=CONTENTS),
            httpx2.Client(timeout=self._timeout) as client,
        ):
            actions = self._actions(client, set(wanted.values()), places)
            for path, file in wanted.items():
                if file not in actions:
                    raise _absent(path.name)
                self._again(_download, client, actions[file], file, path)

    def _actions(
        self, client: httpx2.Client, pointers: set[Pointer], places: tuple[str, ...]
    ) -> dict[Pointer, dict[str, Any]]:
        """Where each file can be had. Those of a fork are in the storage of the repository that it is of, mostly."""
        known: dict[Pointer, dict[str, Any]] = {}
        for place in places:
            missing = iter(sorted(pointers - known.keys(), key=lambda one: one.oid))
            while batch := list(islice(missing, BATCH)):
                known |= self._again(self._batch, client, batch, place)
        return known

    def _batch(
        self, client: httpx2.Client, batch: list[Pointer], place: str
    ) -> dict[Pointer, dict[str, Any]]:
        objects = [{"oid": one.oid, "size": one.size} for one in batch]
        response = client.post(
            f"{self._site}/{place}.git/info/lfs/objects/batch",
            json={"operation": "download", "transfers": ["basic"], "hash_algo": "sha256", "objects": objects},
            headers={"Accept": JSON, "Content-Type": JSON},
            auth=self._auth(),
        )
        if response.status_code == 404:  # a fork that is gone, or that the token may not see
            return {}
        response.raise_for_status()
        told = {
            one["oid"]: one["actions"]["download"] for one in response.json()["objects"] if "actions" in one
        }
        return {one: told[one.oid] for one in batch if one.oid in told}

    def _again(self, call: Callable[..., T], *arguments: Any) -> T:
        """What `call` answers, tried again while the storage is at fault: both calls only read."""
        tries = Retrying(
            retry=retry_if_exception(_is_transient),
            stop=stop_after_attempt(self._attempts),
            wait=wait_exponential_jitter(initial=0.5, max=10.0),
            reraise=True,
        )
        return tries(call, *arguments)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in AGAIN - {403}  # its rate limit is 429; 403 is its last word
    return isinstance(error, httpx2.TransportError)


def _download(client: httpx2.Client, action: dict[str, Any], file: Pointer, path: Path) -> None:
    """One file, and not a byte more than its pointer says. The token stays here: the action brings its own headers."""
    digest, left = hashlib.sha256(), file.size
    headers = action.get("header") or {}
    with client.stream("GET", action["href"], headers=headers, follow_redirects=True) as response:
        response.raise_for_status()
        with path.open("wb") as out:
            for piece in response.iter_bytes():
                left -= len(piece)
                if left < 0:
                    break
                digest.update(piece)
                out.write(piece)
    if left or digest.hexdigest() != file.oid:
        raise HostError(
            f"{path.name} in Git LFS is not the file that its pointer names.",
            advice="Push the file again, or put the adapter on the Hub.",
            code="github-lfs-damaged",
        )


def _absent(name: str) -> InputError:
    return InputError(
        f"{name} is a pointer to a file in Git LFS that GitHub does not have.",
        advice="Push the file itself: git lfs push origin BRANCH. Storage elsewhere (.lfsconfig) is not read.",
        code="github-lfs-missing",
    )
