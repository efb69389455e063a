"""Discussions and Hub PRs over HTTP."""

import difflib
from typing import Any

from . import discussions
from .access import require_participant, require_write, require_writer
from .commits import changed, conflicts
from .errors import HubError
from .exchange import Call, Endpoint, Reply, as_json
from .records import Commit, Discussion, FileEntry, lfs_pointer

DIFF_LIMIT = 256 << 10


def _found(call: Call, num: str) -> Discussion:
    found = call.state.store.discussion(call.repo, int(num)) if num.isdecimal() else None
    if found is None:
        raise HubError(404, f"Discussion {num} not found")
    return found


def _summary(call: Call, found: Discussion) -> dict[str, Any]:
    return {
        "num": found.num,
        "title": found.title,
        "status": found.status,
        "author": {"name": found.author, "fullname": found.author, "type": "user"},
        "isPullRequest": found.pull_request,
        "createdAt": found.created,
        "repo": {"name": call.repo.id, "type": call.repo.type},
        "numComments": sum(event["type"] == "comment" for event in found.events),
    }


def listing(call: Call) -> Reply:
    """Newest first. "open" includes drafts, "closed" includes merged ones."""
    status, kind, author = (call.param(name) for name in ("status", "type", "author"))
    open_or_closed = {"open": ("open", "draft"), "closed": ("closed", "merged")}
    wanted = [
        found
        for found in call.state.store.discussions(call.repo)
        if author in ("", found.author)
        and found.status in open_or_closed.get(status, (found.status,))
        and kind in ("", "all", "pull_request" if found.pull_request else "discussion")
    ]
    size = call.state.discussion_page
    start = call.number("p", 0) * size
    page = [_summary(call, found) for found in wanted[start : start + size]]
    return as_json({"discussions": page, "count": len(wanted), "start": start})


def _lines(call: Call, entry: FileEntry | None) -> list[str]:
    """As git shows it: an LFS file is its pointer."""
    if entry is None:
        return []
    pointer = lfs_pointer(entry.sha256, entry.size)
    content = pointer if entry.lfs or entry.size > DIFF_LIMIT else call.state.store.blobs.read(entry.sha256)
    return content.decode(errors="replace").splitlines()


def _diff(call: Call, base: Commit, head: Commit) -> str:
    out: list[str] = []
    for path in changed(base.files, head.files):
        old, new = base.files.get(path), head.files.get(path)
        names = (f"a/{path}" if old else "/dev/null", f"b/{path}" if new else "/dev/null")
        out.append(f"diff --git a/{path} b/{path}")
        out += difflib.unified_diff(_lines(call, old), _lines(call, new), *names, lineterm="")
    return "\n".join(out)


def details(call: Call, num: str) -> Reply:
    found, store = _found(call, num), call.state.store
    shown: dict[str, Any] = _summary(call, found) | {"events": found.events}
    if found.pull_request:
        base, head, main = discussions.ends(store, call.repo, found)
        clashes = conflicts(base, head, main) if found.status in ("open", "draft") else []
        merge = {"mergeCommitId": found.merge_commit} if found.merge_commit else {}
        shown |= {"filesWithConflicts": clashes, "changes": {"base": "refs/heads/main", **merge}}
        shown |= {"diff": _diff(call, base, head)} if call.flag("diff") else {}
    return as_json(shown)


def create(call: Call) -> Reply:
    account, body = require_writer(call.account), call.json()
    texts = {key: str(body.get(key) or "") for key in ("title", "description")}
    pull = body.get("pullRequest") is True
    found = discussions.open_thread(call.state.store, call.repo, author=account.name, pull=pull, **texts)
    page = f"{call.state.url}/{call.repo.page}/discussions/{found.num}"
    if pull:
        call.state.tell.pushed(call.repo, found.ref, None, call.repo.pulls[str(found.num)])
    call.state.tell.discussed(call.repo, found, "create", comment=found.events[0])
    return as_json({"num": found.num, "url": page, "pullRequest": pull})


def add_comment(call: Call, num: str) -> Reply:
    account, text = require_writer(call.account), str(call.json().get("comment", ""))
    with call.state.store.lock:
        found = _found(call, num)
        event = discussions.add_comment(call.state.store, call.repo, found, account.name, text)
    call.state.tell.commented(call.repo, found, event, "create")
    return as_json({"newMessage": event})


def edit_comment(call: Call, num: str, event: str) -> Reply:
    account, text = require_writer(call.account), str(call.json().get("content", ""))
    with call.state.store.lock:
        found = _found(call, num)
        comment = discussions.find_comment(found, event)
        if comment["author"]["name"] != account.name:
            raise HubError(403, "Forbidden: only its author may edit a comment")
        discussions.edit_comment(call.state.store, call.repo, found, comment, text)
    call.state.tell.commented(call.repo, found, comment, "update")
    return as_json({"updatedComment": comment})


def hide_comment(call: Call, num: str, event: str) -> Reply:
    """For good, by its author or whoever writes to the repository; its text is gone, and its place stays."""
    with call.state.store.lock:
        found = _found(call, num)
        comment = discussions.find_comment(found, event)
        account = require_writer(call.account)
        if comment["author"]["name"] != account.name:
            require_write(account, call.repo)
        discussions.hide_comment(call.state.store, call.repo, found, comment)
    call.state.tell.commented(call.repo, found, comment, "update")
    told = {**comment["data"], "latest": {**comment["data"]["latest"], "raw": "This comment has been hidden"}}
    return as_json({"updatedComment": {**comment, "data": told}})


def set_title(call: Call, num: str) -> Reply:
    title = str(call.json().get("title", ""))
    with call.state.store.lock:
        found = _found(call, num)
        account = require_participant(call.account, call.repo, found)
        event = discussions.rename(call.state.store, call.repo, found, account.name, title)
    call.state.tell.discussed(call.repo, found, "update")
    return as_json({"newTitle": event})


def set_status(call: Call, num: str) -> Reply:
    body, store = call.json(), call.state.store
    with store.lock:
        found = _found(call, num)
        account = require_participant(call.account, call.repo, found)
        if body.get("comment"):
            said = discussions.add_comment(store, call.repo, found, account.name, str(body["comment"]))
            call.state.tell.commented(call.repo, found, said, "create")
        event = discussions.set_status(store, call.repo, found, account.name, str(body.get("status")))
    call.state.tell.discussed(call.repo, found, "update")
    return as_json({"newStatus": event})


def merge(call: Call, num: str) -> Reply:
    account, body, store = require_write(call.account, call.repo), call.json(), call.state.store
    with store.lock:
        found = _found(call, num)
        before = call.repo.main
        event = discussions.merge(store, call.repo, found, account.name)
        if body.get("comment"):
            said = discussions.add_comment(store, call.repo, found, account.name, str(body["comment"]))
            call.state.tell.commented(call.repo, found, said, "create")
    call.state.tell.pushed(call.repo, "refs/heads/main", before, call.repo.main)
    call.state.tell.discussed(call.repo, found, "update")
    return as_json({"newStatus": event, "commitOid": found.merge_commit})


ROUTES: list[Endpoint] = [
    ("GET", "/discussions", listing),
    ("POST", "/discussions", create),
    ("GET", "/discussions/{num}", details),
    ("POST", "/discussions/{num}/comment", add_comment),
    ("POST", "/discussions/{num}/comment/{event}/edit", edit_comment),
    ("POST", "/discussions/{num}/comment/{event}/hide", hide_comment),
    ("POST", "/discussions/{num}/title", set_title),
    ("POST", "/discussions/{num}/status", set_status),
    ("POST", "/discussions/{num}/merge", merge),
]
