"""Everything that the fake GitHub knows, in memory: accounts, tokens, repositories and what is said in them."""

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .git import Objects


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@dataclass
class Account:
    """A user, an organisation or a bot."""

    login: str
    id: int
    type: str = "User"


@dataclass(frozen=True)
class Token:
    """Who holds it, and what it may do: None is everything that its holder may (a classic personal token).

    `kind` is `personal`, `actions` (a workflow's own) or `app`; the latter two are held to `repositories`.
    """

    login: str
    kind: str = "personal"
    permissions: dict[str, str] | None = None
    repositories: frozenset[str] = frozenset()


@dataclass
class Said:
    """A comment of either kind, with the reactions to it: id → (user, content)."""

    id: int
    number: int
    author: str | None
    body: str
    kind: str = "issue"
    created: str = field(default_factory=now)
    reactions: dict[int, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Pull:
    """A GitHub PR; `head_repository` is None when the fork is gone."""

    number: int
    title: str
    author: str | None
    head_sha: str
    head_ref: str
    head_repository: str | None
    base_ref: str
    files: list[dict[str, Any]]
    state: str = "open"
    draft: bool = False
    merged: str | None = None
    created: str = field(default_factory=now)
    reactions: dict[int, tuple[str, str]] = field(default_factory=dict)
    locked: bool = False


@dataclass
class Repo:
    """A repository; forks share the objects and the large files of what they are forked from."""

    full_name: str
    id: int
    private: bool = False
    archived: bool = False
    fork_of: str | None = None
    roles: dict[str, str] = field(default_factory=dict)
    custom_roles: dict[str, str] = field(default_factory=dict)  # name → what it is based on
    objects: Objects = field(default_factory=Objects)
    large: dict[str, bytes] = field(default_factory=dict)  # SHA-256 → content
    branches: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, Pull] = field(default_factory=dict)
    comments: dict[int, Said] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[dict[str, Any]] = field(default_factory=list)
    created: str = field(default_factory=now)

    @property
    def owner(self) -> str:
        return self.full_name.partition("/")[0]


@dataclass
class App:
    """A GitHub App: its public key, what it asked for, and where it is installed (repository → installation)."""

    id: int
    slug: str
    public_key: str
    permissions: dict[str, str]
    installed: dict[str, int] = field(default_factory=dict)


class State:
    """All of it, with one lock and one counter of ids."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.url = ""
        self.public_url = ""  # what URLs in answers begin with: the proxy, when there is one in front
        self.accounts: dict[str, Account] = {}
        self.tokens: dict[str, Token] = {}
        self.repos: dict[str, Repo] = {}
        self.apps: dict[int, App] = {}
        self.requests_left = 5000
        self.reset = int(time.time()) + 3600
        self._ids = itertools.count(1001)

    def new_id(self) -> int:
        return next(self._ids)

    def account(self, login: str, type_: str = "User") -> Account:
        """The account of that name, made when it is new."""
        if login not in self.accounts:
            kind = "Bot" if login.endswith("[bot]") else type_
            self.accounts[login] = Account(login, self.new_id(), kind)
        return self.accounts[login]
