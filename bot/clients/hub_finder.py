"""What an earlier run has published: known by the marker in a card or in a Hub PR's first comment."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from huggingface_hub import HfApi

from bot.clients.http import retrying
from bot.clients.hub_target import Target
from bot.records import Publication
from bot.request import Destination

ReadMarker = Callable[[str], str | None]


class Finder:
    """Looks for results of ours. Raises the client's errors: `hub_errors.translated` belongs around it.

    A Hub PR is ours when the token's own user has opened it: a stranger can copy the marker, and everything else.
    """

    def __init__(self, api: HfApi, *, attempts: int, read_marker: ReadMarker) -> None:
        self._api = api
        self._attempts = attempts
        self._read_marker = read_marker

    def find(self, destination: Destination, target: Target | None, *, key: str) -> Publication | None:
        """The complete result on main, or for a Hub PR also the open one, newest first."""
        if target is None:
            return None
        if self._read_marker(target.card) == key and target.complete:
            url = f"{self._api.endpoint}/{target.id}"
            return Publication(destination=destination, url=url, commit=target.head, existed=True)
        return self._open_pr(destination, target.id, key) if is_pr(destination) else None

    def _open_pr(self, destination: Destination, repo_id: str, key: str) -> Publication | None:
        for number in retrying(lambda: self._open_numbers(repo_id), attempts=self._attempts):
            if self._first_key(repo_id, number) == key:
                info = self._api.model_info(repo_id, revision=f"refs/pr/{number}")
                url = f"{self._api.endpoint}/{repo_id}/discussions/{number}"
                return Publication(
                    destination=destination, url=url, commit=info.sha, number=number, existed=True
                )
        return None

    @cached_property
    def _me(self) -> str | None:
        """The token's user, asked for once: the Hub limits that question's rate. None without a token."""
        if not self._api.token:
            return None
        name = retrying(self._api.whoami, attempts=self._attempts).get("name")
        return name if isinstance(name, str) else None

    def _open_numbers(self, repo_id: str) -> list[int]:
        if not self._me:  # without an author, the Hub would list everybody's
            return []
        found = self._api.get_repo_discussions(
            repo_id, author=self._me, discussion_type="pull_request", discussion_status="open"
        )
        return [one.num for one in found if one.author == self._me]

    def _first_key(self, repo_id: str, number: int) -> str | None:
        def comments() -> list[str]:
            details = self._api.get_discussion_details(repo_id, number)
            return [
                getattr(event, "content", "") or "" for event in details.events if event.type == "comment"
            ]

        try:
            texts = retrying(comments, attempts=self._attempts)
        except (
            KeyError
        ):  # the client cannot read a comment that a moderator has hidden: it comes without its text
            return None
        return self._read_marker(texts[0]) if texts else None


def is_pr(destination: Destination) -> bool:
    """Whether the result is proposed, and not put in place."""
    return destination.kind == "hub_pr"
