"""Discussions and Hub PRs of one repository on the Hub: read, commented, and told of. Implements `bot.forge.HubTalk`.

Discussions are read here and not by the client, which cannot read one in which a comment was hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError

from bot.clients.http import retrying
from bot.clients.hub_errors import translated
from bot.errors import HostError
from bot.forge import Comment, Kind, PullRequest, Reaction, State

T = TypeVar("T")
LONGEST = 65_536  # characters of a comment
STATES: dict[str, Any] = {"open": "open", "draft": "open", "closed": "closed", "merged": "merged"}
LOST = frozenset({"hub-down", "hub-timeout", "hub-unreachable"})  # it may have been carried out
GHOST = "deleted"  # whose account is gone


class HubDiscussions:
    """`repository` is a model's `owner/name`. A comment's id is `number#event`, as in its address.

    `login` is our own name, where it is known. Posts are sent once: when an answer is lost, the comment is looked for
    before another one is posted.
    """

    def __init__(
        self, repository: str, *, endpoint: str, token: str, attempts: int, login: str | None = None
    ) -> None:
        self.repository = repository
        self._login = login
        self._api = HfApi(endpoint=endpoint, token=token)
        self._attempts = attempts

    def login(self) -> str:
        return self._login or self._me

    def organizations(self, user: str) -> frozenset[str]:
        with translated(f"see the organisations of {user}"):
            found = _unless_gone(
                lambda: retrying(lambda: self._api.get_user_overview(user), attempts=self._attempts)
            )
        return frozenset(one.name.casefold() for one in found.orgs or []) if found else frozenset()

    @cached_property
    def _me(self) -> str:
        """Asked once: the Hub limits that question's rate."""
        with translated("see whose token it is"):
            return str(retrying(self._api.whoami, attempts=self._attempts)["name"])

    def react(self, comment: Comment | None, number: int, content: Reaction) -> None:
        """Nothing: the Hub has no reactions. That a command was read is told by the comment of its job."""

    def verdict(  # the signature is the protocol's
        self, sha: str, *, name: str, state: State, title: str, summary: str, url: str | None = None
    ) -> str | None:
        """Nothing to say it on: the Hub has no check runs."""

    def pull_request(self, number: int) -> PullRequest | None:
        """A discussion, too, which has no head: `head_sha` is empty."""
        found = self._details(number)
        if found is None:
            return None
        on_pull = bool(found["isPullRequest"])
        return PullRequest(
            number=number,
            title=str(found["title"]),
            state=STATES.get(found["status"], "closed"),
            draft=found["status"] == "draft",
            author=_author(found),
            head_sha=self._head(number) if on_pull else "",
            head_repository=self.repository,
            head_ref=f"refs/pr/{number}" if on_pull else "",
            base_ref="refs/heads/main",
            is_fork=False,
        )

    def comment(self, id_: int | str, kind: Kind) -> Comment | None:  # noqa: ARG002 - there is one kind here
        number, _, event = str(id_).partition("#")
        return next((c for c in self._comments(int(number)) if c.id == f"{number}#{event}"), None)

    def find_comment(self, number: int, *, marker: str, author: str | None = None) -> Comment | None:
        found = self.find_comments(number, marker=marker, author=author)
        return found[-1] if found else None

    def find_comments(self, number: int, *, marker: str, author: str | None = None) -> tuple[Comment, ...]:
        return self._by(author or self.login(), number, lambda body: marker in body)

    def post_comment(self, number: int, body: str) -> Comment:
        text = body[:LONGEST]
        try:
            return self._post(number, text)
        except HostError as error:
            if error.code not in LOST:
                raise
            same = text.strip()
            found = self._by(self.login(), number, lambda body: body.strip() == same)
            return found[-1] if found else self._post(number, text)

    def edit_comment(self, comment: Comment, body: str) -> Comment | None:
        number, _, event = str(comment.id).partition("#")

        def call() -> Any:
            return self._api.edit_discussion_comment(
                self.repository, int(number), event.lower(), body[:LONGEST]
            )

        with translated(f"edit a comment in {self.repository}#{number}"):
            edited = _unless_gone(
                lambda: retrying(call, attempts=self._attempts)
            )  # the same text twice is one
        return None if edited is None else self._comment(int(number), edited._event)  # noqa: SLF001

    def _post(self, number: int, body: str) -> Comment:
        with translated(f"comment on {self.repository}#{number}"):
            made = self._api.comment_discussion(self.repository, number, body)
            return self._comment(number, made._event)  # noqa: SLF001

    def _by(self, author: str, number: int, wanted: Callable[[str], bool]) -> tuple[Comment, ...]:
        return tuple(one for one in self._comments(number) if one.author == author and wanted(one.body))

    def _comments(self, number: int) -> list[Comment]:
        """Those that are shown, the oldest first."""
        found = self._details(number)
        events = found["events"] if found else []
        shown = [e for e in events if e["type"] == "comment" and not e["data"].get("hidden")]
        return [self._comment(number, event) for event in shown]

    def _comment(self, number: int, event: dict[str, Any]) -> Comment:
        return Comment(
            id=f"{number}#{event['id']}",
            author=_author(event),
            body=str(event["data"]["latest"].get("raw") or ""),
            url=f"{self._api.endpoint}/{self.repository}/discussions/{number}#{event['id']}",
        )

    def _details(self, number: int) -> dict[str, Any] | None:
        path = f"{self._api.endpoint}/api/models/{self.repository}/discussions/{number:d}"

        def call() -> dict[str, Any]:
            reply = get_session().get(path, headers=self._api._build_hf_headers())  # noqa: SLF001
            hf_raise_for_status(reply)
            found: dict[str, Any] = reply.json()
            return found

        with translated(f"read {self.repository}#{number}"):
            return _unless_gone(lambda: retrying(call, attempts=self._attempts))

    def _head(self, number: int) -> str:
        def call() -> str:
            return str(self._api.model_info(self.repository, revision=f"refs/pr/{number}").sha)

        with translated(f"read Hub PR {number} of {self.repository}"):
            return retrying(call, attempts=self._attempts)


def _author(found: dict[str, Any]) -> str:
    return str((found.get("author") or {}).get("name") or GHOST)


def _unless_gone(call: Callable[[], T]) -> T | None:
    """What the call answers; None when what it is about was deleted."""
    try:
        return call()
    except HfHubHTTPError as error:
        if error.response.status_code != 404:
            raise
        return None
