"""GitHub's JSON → records of `bot.forge`. Raises KeyError, TypeError or ValueError for what is not GitHub's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bot.forge import ChangedFile, Comment, Entry, Kind, PullRequest

GHOST = "ghost"  # whose account is gone
# What GitHub's `permission` says, and the roles that it stands for: a custom role has any name, and this beside it.
ROLES = {"admin": ("admin",), "write": ("write", "maintain"), "read": ("read", "triage")}
KINDS: dict[str, Any] = {
    "100644": "file", "100755": "file", "040000": "folder", "120000": "symlink", "160000": "submodule",
}  # fmt: skip


def role(answer: Any) -> str:
    """The role of a collaborator, never more than what GitHub itself derives from it."""
    known = ROLES.get(answer["permission"], ())
    name = answer.get("role_name")
    return str(name if name in known else known[0] if known else "none")


def pull_request(answer: Any) -> PullRequest:
    """A GitHub PR; the head's repository is null when it was deleted."""
    head, base = answer["head"], answer["base"]
    head_repository = head["repo"] and head["repo"]["full_name"]
    return PullRequest(
        number=answer["number"],
        title=answer["title"],
        state="merged" if answer.get("merged_at") else answer["state"],
        draft=bool(answer.get("draft")),
        author=author(answer),
        head_sha=answer["head"]["sha"],
        head_repository=head_repository,
        head_ref=head["ref"],
        base_ref=base["ref"],
        is_fork=head_repository != base["repo"]["full_name"],
    )


def changed_file(answer: Any) -> ChangedFile:
    """A file of a GitHub PR."""
    return ChangedFile(
        path=answer["filename"], status=answer["status"], previous=answer.get("previous_filename")
    )


def comment_of(kind: Kind) -> Callable[[Any], Comment]:
    """Reads a comment of that kind."""

    def comment(answer: Any) -> Comment:
        return Comment(
            id=answer["id"],
            author=author(answer),
            body=answer.get("body") or "",
            url=answer["html_url"],
            kind=kind,
        )

    return comment


def author(answer: Any) -> str:
    """Whose comment, GitHub PR or reaction it is."""
    return str(answer["user"]["login"]) if answer["user"] else GHOST


def entries(answer: Any) -> list[tuple[Entry, str]]:
    """What a git tree lists, each with its object's id. Raises ValueError when GitHub has left some out."""
    if answer["truncated"]:
        raise ValueError("a truncated tree")
    return [(entry(one), str(one["sha"])) for one in answer["tree"]]


def entry(answer: Any) -> Entry:
    """One line of a git tree."""
    return Entry(name=answer["path"], size=int(answer.get("size") or 0), kind=KINDS[answer["mode"]])
