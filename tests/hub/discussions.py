"""Threads and Hub PRs: the events they collect, and merging a Hub PR into main."""

import secrets
from typing import Any

from .commits import conflicts, merged
from .errors import HubError
from .records import Commit, Discussion, Repo, now
from .store import Store


def _event(kind: str, author: str, data: dict[str, Any]) -> dict[str, Any]:
    who = {"name": author, "fullname": author, "type": "user"}
    return {"id": secrets.token_hex(12), "type": kind, "createdAt": now(), "author": who, "data": data}


def check_title(title: str) -> None:
    if not 3 <= len(title.strip()) <= 200:
        raise HubError(400, '"title" length must be between 3 and 200 characters')


def _version(author: str, text: str) -> dict[str, Any]:
    return {"raw": text, "html": "", "updatedAt": now(), "author": {"name": author}}


def comment(author: str, text: str) -> dict[str, Any]:
    data = {"edited": False, "hidden": False, "latest": _version(author, text), "history": [], "numEdits": 0}
    return _event("comment", author, data)


def open_thread(
    store: Store, repo: Repo, *, title: str, author: str, description: str, pull: bool
) -> Discussion:
    """A discussion, or a draft Hub PR that starts from main."""
    check_title(title)
    with store.lock:
        found = Discussion(
            store.next_number(repo), title.strip(), author, events=[comment(author, description)]
        )
        if pull:
            found.base, found.status = repo.main, "draft"
            repo.pulls[str(found.num)] = repo.main
            store.save(repo)
        store.save_discussion(repo, found)
    return found


def open_pull(store: Store, repo: Repo, made: Commit, *, base: str, description: str) -> Discussion:
    """An open Hub PR around a commit, as `create_pr=1` makes it."""
    found = Discussion(store.next_number(repo), made.title.strip(), made.author, base=base)
    found.events = [comment(made.author, description)]
    repo.pulls[str(found.num)] = made.oid
    store.save(repo)
    add_commit_event(store, repo, found, made)
    return found


def add_commit_event(store: Store, repo: Repo, found: Discussion, made: Commit) -> None:
    found.events.append(_event("commit", made.author, {"subject": made.title, "oid": made.oid}))
    store.save_discussion(repo, found)


def add(store: Store, repo: Repo, found: Discussion, event: dict[str, Any]) -> dict[str, Any]:
    found.events.append(event)
    store.save_discussion(repo, found)
    return event


def add_comment(store: Store, repo: Repo, found: Discussion, author: str, text: str) -> dict[str, Any]:
    if not text.strip():
        raise HubError(400, '"comment" is not allowed to be empty')
    return add(store, repo, found, comment(author, text))


def find_comment(found: Discussion, event_id: str) -> dict[str, Any]:
    for event in found.events:
        if event["id"] == event_id and event["type"] == "comment":
            return event
    raise HubError(404, "Comment not found")


def edit_comment(store: Store, repo: Repo, found: Discussion, event: dict[str, Any], text: str) -> None:
    data = event["data"]
    data["history"].append(data["latest"])
    data.update(edited=True, numEdits=len(data["history"]), latest=_version(event["author"]["name"], text))
    store.save_discussion(repo, found)


def hide_comment(store: Store, repo: Repo, found: Discussion, event: dict[str, Any]) -> None:
    """As the Hub does it: nobody gets to read it again, through the API neither."""
    event["data"]["hidden"] = True
    event["data"]["latest"].pop("raw", None)
    event["data"]["history"] = []
    store.save_discussion(repo, found)


def rename(store: Store, repo: Repo, found: Discussion, author: str, title: str) -> dict[str, Any]:
    check_title(title)
    event = _event("title-change", author, {"from": found.title, "to": title})
    found.title = title
    return add(store, repo, found, event)


def set_status(store: Store, repo: Repo, found: Discussion, author: str, status: str) -> dict[str, Any]:
    if status not in ("open", "closed") or found.status == "merged":
        raise HubError(400, f"Cannot change the status from {found.status} to {status}")
    found.status = status
    return add(store, repo, found, _event("status-change", author, {"status": status}))


def ends(store: Store, repo: Repo, found: Discussion) -> tuple[Commit, Commit, Commit]:
    """Where a Hub PR started, where it is, and where main is."""
    return (
        store.resolve(repo, found.base or "main"),
        store.resolve(repo, found.ref),
        store.resolve(repo, "main"),
    )


def merge(store: Store, repo: Repo, found: Discussion, author: str) -> dict[str, Any]:
    """Apply the Hub PR's changes to main in one commit."""
    if not found.pull_request or found.status != "open":
        raise HubError(400, f"Only an open pull request can be merged; this one is {found.status}")
    base, head, main = ends(store, repo, found)
    if names := conflicts(base, head, main):
        raise HubError(409, "This pull request has conflicts: " + ", ".join(names))
    files, title = merged(base, head, main), f"{found.title} (#{found.num})"
    made = store.add_commit(
        repo, parent=main.oid, title=title, author=author, files=files, message=f"- {head.title} ({head.oid})"
    )
    repo.branches["main"] = made.oid
    store.save(repo)
    found.status, found.merge_commit = "merged", made.oid
    return add(store, repo, found, _event("status-change", author, {"status": "merged"}))
