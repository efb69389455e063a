"""The hosts as the bot sees them: records of threads and comments, and the protocols of whoever fetches them.

Nothing here knows a client: `bot.clients.github` and `bot.clients.hub_discussions` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

State = Literal["queued", "in_progress", "success", "failure", "neutral"]
Kind = Literal["issue", "review"]
Reaction = Literal["eyes", "rocket", "confused", "+1", "-1"]


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    """A GitHub PR as it is now; on the Hub, a discussion, which is a Hub PR where it has a head.

    `state` is `open`, `closed` or `merged`; `head_repository` is `owner/name`, None when the fork is gone; `is_fork`
    says whether the head lies outside of the repository that the GitHub PR is on.
    """

    number: int
    title: str
    state: Literal["open", "closed", "merged"]
    draft: bool
    author: str
    head_sha: str
    head_repository: str | None
    head_ref: str
    base_ref: str
    is_fork: bool


@dataclass(frozen=True, kw_only=True)
class ChangedFile:
    """A file of a GitHub PR: `status` is GitHub's (`added`, `removed`, `renamed`, …), `previous` its former path."""

    path: str
    status: str
    previous: str | None = None


@dataclass(frozen=True, kw_only=True)
class Comment:
    """A comment. On GitHub, `kind` tells those under the GitHub PR (`issue`) from those at a line of its diff.

    `id` is a number on GitHub, and a text on the Hub.
    """

    id: int | str
    author: str
    body: str
    url: str
    kind: Kind = "issue"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What lies in a folder of a commit; `size` is in bytes, 0 for what is no file, of an LFS file its pointer's."""

    name: str
    size: int
    kind: Literal["file", "folder", "symlink", "submodule"]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A repository on the Hub at a commit; `files` are paths with git's ids of what is in them."""

    repository: str
    commit: str
    private: bool
    files: Mapping[str, str]


class Talk(Protocol):
    """Where somebody talks to us: the threads of one repository on GitHub or on the Hub, with one token.

    Every method raises AccessError when the token is refused or lacks a permission (the advice says what to add),
    HostError when the host is down, out of reach or wants us to wait longer than we may, and InputError when the
    repository does not exist for this token.
    """

    @property
    def repository(self) -> str:
        """The repository as `owner/name`."""

    def login(self) -> str:
        """Whose comments ours are."""

    def pull_request(self, number: int) -> PullRequest | None:
        """The thread as it is now; None when there is none of that number, or it was deleted."""

    def react(self, comment: Comment | None, number: int, content: Reaction) -> None:
        """Our reaction to a comment, or to the thread itself; twice is as good as once. A deleted one: nothing."""

    def comment(self, id_: int | str, kind: Kind) -> Comment | None:
        """The comment as it is now; None when it was deleted."""

    def find_comment(self, number: int, *, marker: str, author: str | None = None) -> Comment | None:
        """The newest comment by `author` (default: us) that holds the marker, over all pages; None: there is none."""

    def find_comments(self, number: int, *, marker: str, author: str | None = None) -> tuple[Comment, ...]:
        """All of these, the oldest first."""

    def post_comment(self, number: int, body: str) -> Comment:
        """A new comment in the thread, posted once even when the host's answer is lost on the way."""

    def edit_comment(self, comment: Comment, body: str) -> Comment | None:
        """The comment with its new text; None when it was deleted."""

    def verdict(  # what a check run shows
        self, sha: str, *, name: str, state: State, title: str, summary: str, url: str | None = None
    ) -> str | None:
        """Say on a commit how it stands, where the host has a place for that: a check run, or a commit status.

        The check run of the same name is found again and updated. The answer is None when it was said, else the
        sentence that tells which permission is missing, with the YAML to add.
        """


class HubTalk(Talk, Protocol):
    """Discussions on the Hub. Errors are those of `Talk`."""

    def organizations(self, user: str) -> frozenset[str]:
        """The organisations that the user says to be in, where everybody can see it; in small letters."""


class Forge(Talk, Protocol):
    """One repository on GitHub, with its files and who may do what there. Errors are those of `Talk`."""

    def permission(self, user: str) -> str:
        """`admin`, `maintain`, `write`, `triage`, `read` or `none`; a custom role counts as what it is based on."""

    def changed_files(self, number: int, *, limit: int = 3000) -> tuple[ChangedFile, ...]:
        """The first `limit` files of the GitHub PR; GitHub itself lists 3000 at most. None of them: it is gone."""

    def read_file(
        self, path: str, *, ref: str, repository: str | None = None, limit: int = 1 << 20
    ) -> bytes | None:
        """A small file at a commit; None when it is not there. An LFS file is its pointer.

        The commits of a fork's GitHub PR are read through the repository that it is on, also when the fork is gone.
        Raises RefusedError for more than `limit` bytes, and for what is no file.
        """

    def list_folder(self, path: str, *, ref: str) -> tuple[Entry, ...]:
        """What lies in a folder at a commit, by name; empty when there is no such folder."""

    def download_folder(
        self, path: str, *, ref: str, into: Path, limit: int, repository: str | None = None
    ) -> None:
        """The files of one folder at a commit, without its subfolders, into the empty folder `into`.

        LFS files are fetched as what they stand for; where the base repository does not have one, from `repository`,
        the fork. Nothing is checked out and nothing is executed. Raises InputError when there is no such folder, and
        RefusedError for links, submodules, names that a folder cannot hold, and more than `limit` bytes in all.
        """

    def unreact(self, comment: Comment | None, number: int, content: Reaction) -> None:
        """Take our reaction back, if it is there."""
