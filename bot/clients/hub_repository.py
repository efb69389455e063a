"""One model repository on the Hub as it is at a commit: what lies there, and small files of it."""

from __future__ import annotations

from huggingface_hub import HfApi, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from bot.clients.http import retrying
from bot.clients.hub_errors import translated
from bot.forge import Snapshot


class HubRepository:
    """`repository` is `owner/name`. Raises AccessError for what the token may not read, and HostError."""

    def __init__(self, repository: str, *, endpoint: str, token: str | None, attempts: int) -> None:
        self.repository = repository
        self._api = HfApi(endpoint=endpoint, token=token or False)
        self._attempts = attempts

    def at(self, revision: str = "main") -> Snapshot | None:
        """What lies there now; None when the repository or the revision is gone."""
        with translated(f"open {self.repository}"):
            try:
                info = retrying(
                    lambda: self._api.model_info(self.repository, revision=revision, files_metadata=True),
                    attempts=self._attempts,
                )
            except RevisionNotFoundError:
                return None
            except RepositoryNotFoundError as error:
                if error.response.status_code != 404:
                    raise
                return None
        files = {s.rfilename: s.blob_id or "" for s in info.siblings or []}
        return Snapshot(repository=info.id, commit=str(info.sha), private=bool(info.private), files=files)

    def read(self, path: str, *, commit: str, limit: int) -> bytes | None:
        """A file's first bytes, one more than `limit` at most; None when it is not there."""
        url = hf_hub_url(self.repository, path, revision=commit, endpoint=self._api.endpoint)

        def call() -> bytes:
            headers = {**self._api._build_hf_headers(), "Range": f"bytes=0-{limit}"}  # noqa: SLF001
            reply = get_session().get(url, headers=headers, follow_redirects=True)
            if reply.status_code == 416:  # it is empty
                return b""
            hf_raise_for_status(reply)
            body: bytes = reply.content
            return body[: limit + 1]

        with translated(f"read {path} of {self.repository}"):
            try:
                return retrying(call, attempts=self._attempts)
            except EntryNotFoundError:
                return None
