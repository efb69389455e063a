"""The fake GitHub as tests use it: start, stop, seed with users, repositories and GitHub PRs, break on purpose."""

import hashlib
import secrets
import threading
from collections.abc import Mapping
from typing import Any, Self

from tests.hub.faults import Faults
from tests.hub.handler import Journal, Record

from .git import Content, lfs_pointer
from .handler import Server, Trouble
from .state import App, Pull, Repo, Said, State, Token, now

WORKFLOW = {"contents": "read", "metadata": "read", "pull_requests": "write", "checks": "write"}
LARGE = (".safetensors", ".bin")


class FakeGitHub:
    """GitHub on 127.0.0.1: its REST API at `url`, and git's large files."""

    def __init__(self, *, port: int = 0, verbose: bool = False) -> None:
        self.state = State()
        self.faults = Faults()
        self._journal = Journal()
        self._port, self._verbose = port, verbose
        self._listener: Server | None = None

    # life

    def start(self) -> Self:
        self._listener = Server(
            self._port, state=self.state, faults=self.faults, journal=self._journal, verbose=self._verbose
        )
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()
        self.state.url = self.state.public_url = self._listener.address
        return self

    def stop(self) -> None:
        self.faults.closing.set()
        if self._listener:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener.hang_up()
            self._listener = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The REST API's address, for `api_url` or GITHUB_API_URL."""
        return self.state.url

    # accounts and tokens

    def add_user(self, login: str, *, permissions: dict[str, str] | None = None) -> str:
        """A user and a personal token; with `permissions` a fine-grained one."""
        self.state.account(login)
        return self._token("ghp_", Token(login, "personal", permissions))

    def workflow_token(self, repository: str, permissions: dict[str, str] | None = None) -> str:
        """What a workflow's job gets as GITHUB_TOKEN; its `permissions:` with underscores (default: `WORKFLOW`)."""
        granted = dict(WORKFLOW if permissions is None else permissions)
        return self._token("ghs_", Token("github-actions[bot]", "actions", granted, frozenset({repository})))

    def add_app(self, slug: str, *, public_key: str, permissions: dict[str, str]) -> int:
        """A GitHub App; the answer is its id. `install` puts it into repositories."""
        number = self.state.new_id()
        self.state.apps[number] = App(number, slug, public_key, permissions)
        return number

    def app_token(self, slug: str, repository: str) -> str:
        """The token of an App's installation that somebody else has made."""
        return self._token("ghs_", Token(f"{slug}[bot]", "app", dict(WORKFLOW), frozenset({repository})))

    def install(self, app: int, repository: str) -> None:
        self.state.apps[app].installed[repository] = self.state.new_id()

    def _token(self, prefix: str, holder: Token) -> str:
        self.state.account(holder.login)
        token = prefix + secrets.token_hex(20)
        self.state.tokens[token] = holder
        return token

    # repositories

    def add_repo(self, name: str, *, private: bool = False, roles: Mapping[str, str] | None = None) -> Repo:
        repo = Repo(name, self.state.new_id(), private, roles=dict(roles or {}))
        for login in (repo.owner, *repo.roles):
            self.state.account(login)
        self.state.repos[name] = repo
        self.commit(name, {"README.md": "# Adapters\n"})
        return repo

    def fork(self, name: str, owner: str) -> str:
        """A fork with the same objects; the answer is its name."""
        origin = self.state.repos[name]
        fork = f"{owner}/{name.partition('/')[2]}"
        self.state.account(owner)
        self.state.repos[fork] = Repo(
            fork,
            self.state.new_id(),
            origin.private,
            fork_of=name,
            objects=origin.objects,
            large=origin.large,
            branches=dict(origin.branches),
        )
        return fork

    def commit(
        self, name: str, files: Mapping[str, Content], *, branch: str = "main", lfs: tuple[str, ...] = ()
    ) -> str:
        """The whole content of a branch; files that end in one of `lfs` go into large file storage."""
        repo = self.state.repos[name]
        stored = {path: self._stored(repo, content) if path.endswith(lfs) and lfs else content
                  for path, content in files.items()}  # fmt: skip
        sha = repo.objects.commit(stored, parent=repo.branches.get(branch, ""))
        repo.branches[branch] = sha
        for pull in self._pulls_from(name, branch):
            pull.head_sha = sha
        return sha

    def _pulls_from(self, name: str, branch: str) -> list[Pull]:
        pulls = [pull for repo in self.state.repos.values() for pull in repo.pulls.values()]
        return [p for p in pulls if (p.head_repository, p.head_ref, p.state) == (name, branch, "open")]

    def _stored(self, repo: Repo, content: Content) -> str:
        data = content.encode() if isinstance(content, str) else content
        assert isinstance(data, bytes), "links are not large"
        repo.large[hashlib.sha256(data).hexdigest()] = data
        return lfs_pointer(data)

    def open_pull(
        self,
        name: str,
        files: Mapping[str, Content],
        *,
        author: str = "carol",
        head: str | None = None,
        branch: str = "add-adapter",
        lfs: tuple[str, ...] = (),
        **more: Any,
    ) -> Pull:
        """A GitHub PR that adds files, from a branch of the repository or of a fork (`head`)."""
        head, repo = head or name, self.state.repos[name]
        self.state.account(author)
        sha = self.commit(head, {"README.md": "# Adapters\n", **files}, branch=branch, lfs=lfs)
        changed = [{"filename": path, "status": "added"} for path in files]
        facts = {"title": "Add an adapter", **more}
        number = len(repo.pulls) + 1
        repo.pulls[number] = Pull(
            number, author=author, head_sha=sha, head_ref=branch, head_repository=head, base_ref="main",
            files=changed, **facts,
        )  # fmt: skip
        return repo.pulls[number]

    def close_pull(self, name: str, number: int, *, merged: bool = False) -> None:
        pull = self.state.repos[name].pulls[number]
        pull.state, pull.merged = "closed", now() if merged else None

    def say(self, name: str, number: int, body: str, *, author: str = "carol", kind: str = "issue") -> Said:
        """A comment, past all access rules."""
        self.state.account(author)
        said = Said(self.state.new_id(), number, author, body, kind)
        self.state.repos[name].comments[said.id] = said
        return said

    def comments(self, name: str) -> list[Said]:
        return list(self.state.repos[name].comments.values())

    # watching and breaking

    @property
    def requests(self) -> tuple[Record, ...]:
        """Everything served so far, oldest first."""
        return self._journal.read()

    def clear_requests(self) -> None:
        self._journal.read()
        self._journal.clear()

    def fault(self, match: str, **trouble: Any) -> None:
        """Break requests whose path and query contain `match`, as the loopback Hub does; `message` is what is said.

        `status`, `headers`, `message`, `method`, `hang`, `drop_after`, `slow`, `times`.
        """
        self.faults.add(Trouble(match, **trouble))

    def clear_faults(self) -> None:
        self.faults.clear()
