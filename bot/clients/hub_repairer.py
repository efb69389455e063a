"""Small text files of a repository → one Hub PR with their repaired form, with the write token. Never a second one."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from bot.clients import hub_target
from bot.clients.hub_errors import translated
from bot.clients.hub_finder import Finder, ReadMarker
from bot.clients.hub_target import Target
from bot.errors import AccessError, RefusedError
from bot.records import Pinned, Publication
from bot.request import Destination


class HubRepairer:
    """Opens Hub PRs with repaired files, and finds those that it has opened before."""

    def __init__(self, endpoint: str, *, token: str | None, attempts: int, read_marker: ReadMarker) -> None:
        self._api = HfApi(endpoint=endpoint, token=token or False)
        self._attempts = attempts
        self._finder = Finder(self._api, attempts=attempts, read_marker=read_marker)

    def propose(
        self, pinned: Pinned, *, files: Mapping[str, str], key: str, title: str, body: str
    ) -> Publication:
        """The open Hub PR of this key: an earlier one of the token's own user, or a new one with these files.

        Raises RefusedError when the repository has moved on since it was read, AccessError or HostError.
        """
        destination = Destination(kind="hub_pr", location=pinned.location)
        with translated(f"propose a repair to {pinned.location}"):
            target = self._look(pinned)
            if found := self._finder.find(destination, target, key=key):
                return found
            if target.head != pinned.commit:
                raise _moved_on(pinned)
            return self._open(destination, target, files=files, key=key, title=title, body=body)

    def _look(self, pinned: Pinned) -> Target:
        target = hub_target.look(self._api, pinned.location, attempts=self._attempts)
        if target is None:
            raise AccessError(
                f"The token for writing does not see {pinned.location}.",
                advice="Set MERGE_BOT_WRITE_TOKEN or HF_TOKEN to a token that may open a Hub PR there.",
                code="no-access",
            )
        return target

    def _open(
        self,
        destination: Destination,
        target: Target,
        *,
        files: Mapping[str, str],
        key: str,
        title: str,
        body: str,
    ) -> Publication:
        """One commit, sent once: when its answer is lost, it is looked for and not sent again."""
        operations = [CommitOperationAdd(name, text.encode()) for name, text in files.items()]
        try:
            info = self._api.create_commit(
                target.id,
                operations,
                commit_message=title,
                commit_description=body,
                create_pr=True,
                parent_commit=target.head,
            )
        except (HfHubHTTPError, httpx2.TransportError):
            if found := self._finder.find(destination, target, key=key):
                return found
            raise
        url = info.pr_url or f"{self._api.endpoint}/{target.id}"
        return Publication(destination=destination, url=url, commit=info.oid, number=info.pr_num)


def _moved_on(pinned: Pinned) -> RefusedError:
    asked = f"at {pinned.revision}" if pinned.revision else f"at {pinned.commit[:12]}"
    return RefusedError(
        f"{pinned.location} was read {asked}, which is not its main branch now; a Hub PR changes the main branch.",
        advice="Run the doctor on the main branch: leave out @revision.",
        code="not-main",
    )
