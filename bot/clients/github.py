"""One repository on GitHub: who may what, GitHub PRs, comments, reactions. Implements `bot.forge.Forge`.

Files of a commit are in `github_files`, the verdict on one in `github_verdict`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from bot.clients.github_answers import author, changed_file, comment_of, pull_request, role
from bot.clients.github_api import Api, Token, nothing, token_auth
from bot.clients.github_files import Files
from bot.clients.github_verdict import say
from bot.errors import AccessError, HostError, InputError
from bot.forge import ChangedFile, Comment, Entry, Kind, PullRequest, Reaction, State

T = TypeVar("T")
USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\[bot\])?")
ACTIONS = "github-actions[bot]"  # who a workflow's own token is
VIEWER = "{viewer{login}}"
WHO = "see whose token it is"
LONGEST = 65_536  # characters of a comment, by GitHub's own bound
CUT = "\n\n…"
READ, WRITE = "pull-requests: read", "pull-requests: write"
COMMENTS = {"issue": "issues/comments", "review": "pulls/comments"}


class GitHub:
    """`patience` is how many seconds of waiting a request may cost in all; `login` who we are, where that is known.

    Raises AccessError for what cannot be a token, InputError for what is no name of a repository and no address.
    """

    def __init__(
        self,
        repository: str,
        *,
        token: Token,
        api_url: str = "https://api.github.com",
        timeout: float = 30.0,
        attempts: int = 5,
        patience: float = 120.0,
        login: str | None = None,
    ) -> None:
        self._api = Api(
            repository,
            auth=token_auth(token),
            url=api_url,
            timeout=timeout,
            attempts=attempts,
            patience=patience,
        )
        self._files = Files(self._api, token=token)
        self._login = login

    @property
    def repository(self) -> str:
        return self._api.repository

    def login(self) -> str:
        if self._login is None:
            self._login = self._viewer() or self._user() or ACTIONS
        return self._login

    def _viewer(self) -> str | None:
        """Who we are; None where GraphQL is closed to us. It knows tokens of Apps and workflows, too."""
        try:
            return self._api.query(VIEWER, what=WHO, read=lambda data: str(data["viewer"]["login"]))
        except (AccessError, InputError) as error:
            if error.code == "github-bad-token":
                raise
            return None

    def _user(self) -> str | None:
        try:
            return self._api.ask("GET", "/user", what=WHO, read=lambda user: str(user["login"]))
        except AccessError as error:
            if error.code == "github-bad-token":
                raise
            return None

    def permission(self, user: str) -> str:
        if not USER.fullmatch(user):
            return "none"
        path = f"collaborators/{quote(user, safe='')}/permission"
        return self._api.find(path, what=f"see what {user} may do", read=role) or "none"

    # GitHub PRs

    def pull_request(self, number: int) -> PullRequest | None:
        what = f"read GitHub PR #{number}"
        return self._api.find(f"pulls/{number:d}", what=what, read=pull_request, needs=READ)

    def changed_files(self, number: int, *, limit: int = 3000) -> tuple[ChangedFile, ...]:
        what = f"list the files of GitHub PR #{number}"
        pages = self._api.pages(f"pulls/{number:d}/files", what=what, read=changed_file, needs=READ)
        return _unless_gone(lambda: tuple(islice(pages, limit))) or ()

    # files of a commit

    def read_file(
        self, path: str, *, ref: str, repository: str | None = None, limit: int = 1 << 20
    ) -> bytes | None:
        return self._files.read(path, ref=ref, repository=repository, limit=limit)

    def list_folder(self, path: str, *, ref: str) -> tuple[Entry, ...]:
        return self._files.entries(path, ref=ref)

    def download_folder(
        self, path: str, *, ref: str, into: Path, limit: int, repository: str | None = None
    ) -> None:
        self._files.download(path, ref=ref, into=into, limit=limit, repository=repository)

    # reactions

    def react(self, comment: Comment | None, number: int, content: Reaction) -> None:
        path, what, body = _reactions(comment, number), "react to a comment", {"content": content}
        _unless_gone(lambda: self._api.ask("POST", path, what=what, read=nothing, needs=WRITE, body=body))

    def unreact(self, comment: Comment | None, number: int, content: Reaction) -> None:
        path, what, me = _reactions(comment, number), "take a reaction back", self.login()
        pages = self._api.pages(
            path, what=what, read=lambda one: (one["id"], author(one)), needs=READ, content=content
        )
        for id_ in [id_ for id_, user in _unless_gone(lambda: list(pages)) or () if user == me]:
            self._api.ask("DELETE", f"{path}/{id_}", what=what, read=nothing, needs=WRITE)

    # comments

    def comment(self, id_: int | str, kind: Kind) -> Comment | None:
        path = f"{COMMENTS[kind]}/{int(id_):d}"
        return self._api.find(path, what="read a comment", read=comment_of(kind), needs=READ)

    def find_comment(self, number: int, *, marker: str, author: str | None = None) -> Comment | None:
        found = self.find_comments(number, marker=marker, author=author)
        return found[-1] if found else None

    def find_comments(self, number: int, *, marker: str, author: str | None = None) -> tuple[Comment, ...]:
        return self._said(number, lambda body: marker in body, author=author or self.login())

    def post_comment(self, number: int, body: str) -> Comment:
        text = shortened(body)
        try:
            return self._post(number, text)
        except HostError as error:
            if error.code == "github-rate-limit":  # then it was not carried out
                raise
            # It may have been, with its answer lost, and a second comment would be litter.
            found = self._said(number, lambda body: body == text, author=self.login())
            return found[-1] if found else self._post(number, text)

    def edit_comment(self, comment: Comment, body: str) -> Comment | None:
        path, text, read = (
            f"{COMMENTS[comment.kind]}/{int(comment.id):d}",
            shortened(body),
            comment_of(comment.kind),
        )
        return _unless_gone(
            lambda: self._api.ask(
                "PATCH", path, what="edit a comment", read=read, needs=WRITE, body={"body": text}
            )
        )

    def _post(self, number: int, body: str) -> Comment:
        path, what = f"issues/{number:d}/comments", f"comment on GitHub PR #{number}"
        return self._api.ask(
            "POST", path, what=what, read=comment_of("issue"), needs=WRITE, body={"body": body}
        )

    def _said(self, number: int, wanted: Callable[[str], bool], *, author: str) -> tuple[Comment, ...]:
        path, what = f"issues/{number:d}/comments", f"read the comments of GitHub PR #{number}"
        pages = self._api.pages(path, what=what, read=comment_of("issue"), needs=READ)
        found = _unless_gone(lambda: [one for one in pages if one.author == author and wanted(one.body)])
        return tuple(sorted(found or (), key=lambda one: int(one.id)))

    # the verdict

    def verdict(  # what a check run shows
        self, sha: str, *, name: str, state: State, title: str, summary: str, url: str | None = None
    ) -> str | None:
        return say(self._api, sha, name=name, state=state, title=title, summary=shortened(summary), url=url)


def shortened(text: str) -> str:
    """The text as long as GitHub takes it."""
    return text if len(text) <= LONGEST else text[: LONGEST - len(CUT)] + CUT


def _unless_gone(call: Callable[[], T]) -> T | None:
    """What the call answers; None when what it is about was deleted."""
    try:
        return call()
    except InputError as error:
        if error.code != "github-not-found":
            raise
        return None


def _reactions(comment: Comment | None, number: int) -> str:
    """Where the reactions to a comment are, or those to the GitHub PR."""
    thread = f"{COMMENTS[comment.kind]}/{int(comment.id):d}" if comment else f"issues/{number:d}"
    return f"{thread}/reactions"
