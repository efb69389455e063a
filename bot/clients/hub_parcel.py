"""Large files that are in the Hub's storage before the commit that shows them: sent, copied or found there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.lfs import UploadInfo, post_lfs_batch_info

from bot.clients import hub_upload
from bot.clients.http import retrying
from bot.clients.hub_errors import translated
from bot.clients.hub_target import Target
from bot.errors import MergeError
from bot.records import Pinned

T = TypeVar("T")
MOST = 100  # files in one request


class Parcel:
    """Files for one commit to a repository. `made`: it was created for this. `sent`: the files so far, by their names.

    Methods may be called by another thread than the one that publishes, but not by two at once.
    """

    def __init__(self, api: HfApi, target: Target, *, pr: bool, made: bool, attempts: int) -> None:
        self._api, self._target, self._pr, self._attempts = api, target, pr, attempts
        self.made = made
        self.sent: dict[str, hub_upload.Addition] = {}

    def send(self, path: Path, *, name: str, sha256: str) -> None:
        """Sends a file; what the Hub's storage has is not sent again. The file is not needed any more afterwards.

        Raises MergeError when it is not what was merged and proven, HostError or AccessError.
        """
        addition = CommitOperationAdd(name, path)
        # Else a repository whose .gitattributes lacks the name has small files sent with the commit: then this is gone.
        addition._upload_mode = "lfs"  # noqa: SLF001 - the client asks the Hub only where it has none
        with translated(f"upload {name} to {self._target.id}"), hub_upload.quiet():
            hub_upload.one(self._api, self._target.id, addition, pr=self._pr, attempts=self._attempts)
        if addition.upload_info.sha256.hex() != sha256:
            raise MergeError(
                f"{name} is not what it was when it was checked: the disk or somebody has changed it.",
                advice="Run it again; if it happens again, look at the disk.",
                code="changed-since-validation",
            )
        self._keep(name, size=addition.upload_info.size, sha256=sha256)

    def recall(self, files: Mapping[str, tuple[str, int]]) -> set[str]:
        """Takes in those of the files, by name with SHA-256 and size, that the Hub's storage has of an earlier run."""
        if not files:
            return set()
        with translated(f"look for what {self._target.id} has"):
            found = {sha for part in batched(files.values()) for sha in self._stored(part)}
        there = {name: file for name, file in files.items() if file[0] in found}
        for name, (sha256, size) in there.items():
            self._keep(name, size=size, sha256=sha256)
        return set(there)

    def _stored(self, files: Sequence[tuple[str, int]]) -> set[str]:
        """The digests of those that the Hub's storage has for this repository: they need no upload."""
        infos = [UploadInfo(size, b"", sha256=bytes.fromhex(sha)) for sha, size in files]

        def ask() -> list[dict[str, object]]:
            return post_lfs_batch_info(
                upload_infos=infos,
                token=None,
                headers=self._api._build_hf_headers(),  # noqa: SLF001
                repo_type="model",
                repo_id=self._target.id,
                endpoint=self._api.endpoint,
            )[0]

        return {str(e["oid"]) for e in retrying(ask, attempts=self._attempts) if not e.get("actions")}

    def copy(self, source: Pinned, files: Mapping[str, str]) -> set[str]:
        """Has the Hub copy files, by name with SHA-256, from another repository; the answer is what it has copied.

        It declines what lies in another region, and what this token may not read: that has to be sent.
        """
        prefix = f"{source.subfolder}/" if source.subfolder else ""
        try:
            listed = retrying(
                lambda: self._api.get_paths_info(
                    source.location, [f"{prefix}{name}" for name in files], revision=source.commit
                ),
                attempts=self._attempts,
            )
            known = {file.path.removeprefix(prefix): file for file in listed if isinstance(file, RepoFile)}
            wanted = {
                name: file
                for name, file in known.items()
                if file.lfs and file.xet_hash and file.lfs.sha256 == files.get(name)
            }
            failed = {
                sha for part in batched(wanted.values()) for sha in self._duplicate(source.location, part)
            }
        except (HfHubHTTPError, httpx2.TransportError):
            return set()
        done = {name: file for name, file in wanted.items() if files[name] not in failed}
        for name, file in done.items():
            self._keep(name, size=file.size, sha256=files[name])
        return set(done)

    def _duplicate(self, source: str, files: Sequence[RepoFile]) -> set[str]:
        """What the client does for a `CommitOperationCopy`, before the commit; the answer is what the Hub declined."""
        body = {
            "target": {"type": "model", "name": self._target.id},
            "files": [
                {"xetHash": f.xet_hash, "sha256": f.lfs.sha256 if f.lfs else "", "filename": f.path}
                for f in files
            ],
        }
        url = f"{self._api.endpoint}/api/models/{source}/lfs-files/duplicate"
        response = get_session().post(url, headers=self._api._build_hf_headers(), json=body)  # noqa: SLF001
        hf_raise_for_status(response)
        return {str(each.get("sha256")) for each in response.json().get("failed", [])}

    def _keep(self, name: str, *, size: int, sha256: str) -> None:
        """Remembers a file that is there, without its bytes."""
        addition = CommitOperationAdd(name, b"")
        addition.upload_info = UploadInfo(size, b"", sha256=bytes.fromhex(sha256))
        addition._upload_mode, addition._is_uploaded = "lfs", True  # noqa: SLF001 - as the client does after a preupload
        self.sent[name] = addition


def batched(files: Iterable[T]) -> Iterator[list[T]]:
    """So many at a time as one request takes."""
    each = list(files)
    yield from (each[first : first + MOST] for first in range(0, len(each), MOST))
