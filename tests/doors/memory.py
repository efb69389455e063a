"""A code host in memory, for the flow: what happens there while a job runs is up to the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bot.doors.ground import Ground
from bot.doors.pace import Pace
from bot.forge import ChangedFile, Comment, Entry, PullRequest
from bot.progress import Silent
from bot.settings import load
from bot.trigger.github import Event, event
from bot.trigger.inputs import Inputs

OWN = (
    "pace",
    "patience",
    "sleep",
    "clock",
    "settle",
    "jobs",
    "insist",
)  # fields of a Ground that are no inputs
HEAD, NUMBER = "a" * 40, 7


class Memory:
    """One repository with one GitHub PR. `during` is called when a job looks at its comment."""

    repository = "acme/adapters"

    def __init__(self, **files: Any) -> None:
        self.roles = {"alice": "write"}
        self.pull: PullRequest | None = PullRequest(
            number=NUMBER, title="Add", state="open", draft=False, author="bob", head_sha=HEAD,
            head_repository="acme/adapters", head_ref="add", base_ref="main", is_fork=False,
        )  # fmt: skip
        self.files: dict[str, Path] = files  # adapter folders of the GitHub PR
        self.said: dict[int, Comment] = {}
        self.commands = {99: Comment(id=99, author="alice", body="/merge", url="")}
        self.edits: list[str] = []
        self.reactions: list[str] = []
        self.verdicts: list[dict[str, Any]] = []
        self.during: Callable[[], None] = lambda: None
        self.errors: dict[str, Exception] = {}

    def login(self) -> str:
        return "github-actions[bot]"

    def permission(self, user: str) -> str:
        self._may("permission")
        return self.roles.get(user, "none")

    def pull_request(self, number: int) -> PullRequest | None:
        return self.pull

    def changed_files(self, number: int, *, limit: int = 3000) -> tuple[ChangedFile, ...]:
        paths = [
            f"{name}/{p.name}" for name, folder in self.files.items() for p in folder.iterdir() if p.is_file()
        ]
        return tuple(ChangedFile(path=path, status="added") for path in ["README.md", *paths])

    def list_folder(self, path: str, *, ref: str) -> tuple[Entry, ...]:
        assert ref == HEAD
        there = self.files[path].iterdir() if path in self.files else ()
        return tuple(Entry(name=p.name, size=p.stat().st_size, kind="file") for p in there if p.is_file())

    def download_folder(
        self, path: str, *, ref: str, into: Path, limit: int, repository: str | None = None
    ) -> None:
        for file in self.files[path].iterdir():
            if file.is_file():
                (into / file.name).write_bytes(file.read_bytes())

    def react(self, comment: Comment | None, number: int, content: str) -> None:
        self._may("react")
        self.reactions.append(content)

    def comment(self, id_: int, kind: str) -> Comment | None:
        self.during()
        self._may("comment")
        return self.commands.get(id_) or self.said.get(id_)

    def find_comment(self, number: int, *, marker: str, author: str | None = None) -> Comment | None:
        found = self.find_comments(number, marker=marker, author=author)
        return found[-1] if found else None

    def find_comments(self, number: int, *, marker: str, author: str | None = None) -> tuple[Comment, ...]:
        wanted = author or self.login()
        found = [c for c in self.said.values() if marker in c.body and c.author == wanted]
        return tuple(sorted(found, key=lambda one: one.id))

    def post_comment(self, number: int, body: str) -> Comment:
        self._may("post_comment")
        number = len(self.said) + 1
        self.said[number] = Comment(
            id=number, author=self.login(), body=body, url=f"https://gh.example/c{number}"
        )
        return self.said[number]

    def edit_comment(self, comment: Comment, body: str) -> Comment | None:
        self._may("edit_comment")
        if comment.id not in self.said:
            return None
        self.edits.append(body)
        self.said[comment.id] = replace(comment, body=body)
        return self.said[comment.id]

    def verdict(self, sha: str, **shown: Any) -> str | None:
        self._may("verdict")
        self.verdicts.append({"sha": sha, **shown})
        return None

    def _may(self, name: str) -> None:
        if name in self.errors:
            raise self.errors[name]

    @property
    def bodies(self) -> list[str]:
        return [comment.body for comment in self.said.values()]


def said(body: str, *, by: str = "alice", text: str = "") -> Event:
    """Somebody's comment under the GitHub PR, as GitHub tells of it."""
    return event(
        "issue_comment",
        {
            "action": "created",
            "issue": {"number": NUMBER, "title": "Add", "body": text, "pull_request": {}},
            "comment": {"id": 99, "body": body, "user": {"login": by, "type": "User"}},
        },
    )


def pushed(**more: Any) -> Event:
    """A GitHub PR with new files."""
    return event(
        "pull_request",
        {"action": "synchronize", "pull_request": {"number": NUMBER, "head": {"sha": HEAD}}} | more,
    )


def ground(forge: Memory, folder: Path, *, run: str = "1-1", **more: Any) -> Ground:
    """What an answer stands on, in the environment of the test; other words are inputs."""
    own = {key: more.pop(key) for key in OWN if key in more}
    return Ground(
        **{"pace": Pace(every=0.0), "patience": 0.0, "sleep": lambda _: None, **own},
        settings=load(),
        inputs=Inputs(**{"validate": "structure", **more}),
        connect=lambda: forge,
        progress=Silent(),
        run=run,
        url=f"https://gh.example/run/{run}",
        folder=folder / run,
    )
