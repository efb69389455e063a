"""Uploads: what goes to LFS, the LFS batch and storage endpoints, Xet's tokens, server-side copies, and the commit."""

import hashlib
import math
import time
from typing import Any

from . import discussions
from .access import can_download, require_download, require_push, require_visible, require_writer
from .blobs import chunks
from .commits import build, clean_path, parse
from .errors import HubError, revision_not_found
from .exchange import Call, Endpoint, Reply, as_json
from .records import Discussion, FileEntry
from .store import LFS_SUFFIXES

REGULAR_UP_TO = 10 << 20
XET_TOKEN_SECONDS = 3600


def _pull(call: Call, rev: str) -> Discussion | None:
    """The Hub PR that this revision belongs to."""
    number = rev.removeprefix("refs/pr/")
    if number == rev:
        return None
    found = call.state.store.discussion(call.repo, int(number)) if number.isdecimal() else None
    if found is None or not found.pull_request:
        raise revision_not_found(rev)
    return found


def preupload(call: Call, rev: str) -> Reply:
    require_push(call.account, call.repo, create_pr=call.flag("create_pr"), pull=_pull(call, rev))
    present = call.state.store.resolve(call.repo, rev).files
    files = [_mode(item, present) for item in call.json().get("files", [])]
    return as_json({"files": files})


def _mode(item: dict[str, Any], present: Any) -> dict[str, Any]:
    """`oid` lets the client skip what has not changed: sha256 for LFS, git's blob id for the rest."""
    path = clean_path(item.get("path"))
    lfs = path.endswith(LFS_SUFFIXES) or int(item.get("size", 0)) > REGULAR_UP_TO
    entry: FileEntry | None = present.get(path)
    mode = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
    return mode | ({"oid": entry.etag} if entry else {})


def lfs_batch(call: Call) -> Reply:
    """https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md, uploads only."""
    require_writer(call.account)
    body = call.json()
    if body.get("operation") != "upload":
        raise HubError(422, "Only uploads are served here")
    objects = [_instructions(call, str(item["oid"]), int(item["size"])) for item in body.get("objects", [])]
    return as_json({"transfer": "basic", "objects": objects})


def _instructions(call: Call, sha256: str, size: int) -> dict[str, Any]:
    state, repo = call.state, call.repo
    plain: dict[str, Any] = {"oid": sha256, "size": size, "authenticated": True}
    if state.store.size_of(repo, sha256) == size:
        return plain
    facts: dict[str, str | int] = {"repo": repo.key, "size": size}
    verify = {"href": f"{state.url}/{repo.page}.git/info/lfs/objects/verify"}
    if size <= state.multipart_threshold:
        upload: dict[str, Any] = {"href": state.cdn_url + state.signed(f"/lfs/{sha256}", **facts)}
    else:
        parts = range(1, math.ceil(size / state.part_size) + 1)
        links = {f"{n:05}": state.cdn_url + state.signed(f"/lfs/{sha256}/{n}", **facts) for n in parts}
        upload = {"href": state.url + state.signed(f"/lfs/{sha256}/complete", **facts)}
        upload["header"] = {"chunk_size": str(state.part_size), **links}
    return {**plain, "actions": {"upload": upload, "verify": verify}}


def _accepted(call: Call, sha256: str) -> Reply:
    repo = call.state.store.by_key(call.param("repo"))
    if repo is None:
        raise HubError(404, "The repository is gone")
    call.state.store.own_object(repo, sha256)
    return as_json({"success": True}, ETag=f'"{sha256}"')


def put_object(call: Call, sha256: str) -> Reply:
    call.state.check_signature(call)
    call.state.store.blobs.receive(chunks(call.stream), sha256=sha256, size=call.number("size", -1))
    return _accepted(call, sha256)


def _upload_id(call: Call, sha256: str) -> str:
    return hashlib.sha256(f"{call.param('repo')} {sha256}".encode()).hexdigest()


def put_part(call: Call, sha256: str, part: str) -> Reply:
    call.state.check_signature(call)
    etag = call.state.store.blobs.put_part(_upload_id(call, sha256), int(part), chunks(call.stream))
    return Reply(200, {"ETag": f'"{etag}"'})


def complete(call: Call, sha256: str) -> Reply:
    call.state.check_signature(call)
    parts = [(int(part["partNumber"]), str(part["etag"]).strip('"')) for part in call.json().get("parts", [])]
    if not all(etag.isalnum() for _, etag in parts):
        raise HubError(422, "Malformed ETag")
    upload = _upload_id(call, sha256)
    call.state.store.blobs.join_parts(upload, parts, sha256=sha256, size=call.number("size", -1))
    return _accepted(call, sha256)


def verify(call: Call) -> Reply:
    require_writer(call.account)
    body = call.json()
    sha256 = str(body.get("oid"))
    if call.state.store.size_of(call.repo, sha256) != body.get("size"):
        raise HubError(422, "The object is missing or has another size")
    return as_json({"success": True})


def duplicate(call: Call) -> Reply:
    """Give another repository the right to refer to LFS objects of this one, without moving a byte."""
    account, store, body = require_writer(call.account), call.state.store, call.json()
    target = body.get("target", {})
    found = store.find(str(target.get("type")), str(target.get("name")))
    into = require_visible(account, found)
    readable = can_download(account, call.repo)
    failed = []
    for item in body.get("files", []):
        sha256 = str(item.get("sha256"))
        if readable and sha256 in call.repo.objects:
            store.own_object(into, sha256)
        else:
            failed.append({"sha256": sha256, "error": "Not found, or no access"})
    return as_json({"success": not failed, "failed": failed})


def xet_token(call: Call, mode: str, rev: str) -> Reply:
    """Where the Xet storage is; below `local://` nobody looks at the token."""
    cas = call.state.store.cas
    if cas is None:
        raise HubError(404, "This repository is not on Xet storage")
    if mode == "write":
        require_push(call.account, call.repo, create_pr=call.flag("create_pr"), pull=_pull(call, rev))
        cas.writers.add(call.repo.key)
    else:
        require_download(call.account, call.repo)
    until = int(time.time()) + XET_TOKEN_SECONDS
    headers = {"X-Xet-Cas-Url": cas.url, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(until)}
    reply = as_json({"casUrl": cas.url, "accessToken": "xet", "exp": until})
    reply.headers |= headers
    return reply


def commit(call: Call, rev: str) -> Reply:
    store, repo, create_pr = call.state.store, call.repo, call.flag("create_pr")
    pull = _pull(call, rev)
    account = require_push(call.account, repo, create_pr=create_pr, pull=pull)
    request = parse(store, repo, call.stream)
    with store.lock:
        head = store.resolve(repo, rev)
        start = store.resolve(repo, request.parent) if create_pr and request.parent else head
        if request.parent and start.oid != request.parent:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        if create_pr:
            discussions.check_title(request.summary)
        made = build(store, repo, request, parent=start, author=account.name)
        page = f"{call.state.url}/{repo.page}"
        answer = {"success": True, "commitOid": made.oid, "commitUrl": f"{page}/commit/{made.oid}"}
        if create_pr:
            opened = discussions.open_pull(store, repo, made, base=start.oid, description=request.description)
            answer["pullRequestUrl"] = f"{page}/discussions/{opened.num}"
            call.state.tell.pushed(repo, opened.ref, None, made.oid)
            call.state.tell.discussed(repo, opened, "create", comment=opened.events[0])
        else:
            _advance(call, rev, made.oid, pull)
            moved = pull.ref if pull else f"refs/heads/{rev.removeprefix('refs/heads/')}"
            call.state.tell.pushed(repo, moved, head.oid, made.oid)
    return as_json(answer)


def _advance(call: Call, rev: str, oid: str, pull: Discussion | None) -> None:
    """Move a branch, or a Hub PR's head, to the new commit."""
    store, repo = call.state.store, call.repo
    branch = rev.removeprefix("refs/heads/")
    if pull is not None:
        if pull.status in ("closed", "merged"):
            raise HubError(403, f"This pull request is {pull.status}")
        repo.pulls[str(pull.num)] = oid
    elif branch in repo.branches:
        repo.branches[branch] = oid
    else:
        raise HubError(400, f"Commits go to a branch, not to {rev}")
    store.save(repo)
    made = store.commit(repo, oid)
    if pull is not None and made is not None:
        discussions.add_commit_event(store, repo, pull, made)


ROUTES: list[Endpoint] = [
    ("POST", "/preupload/{rev}", preupload),
    ("POST", "/commit/{rev}", commit),
    ("POST", "/lfs-files/duplicate", duplicate),
    ("GET", "/xet-(?P<mode>read|write)-token/{rev}", xet_token),
]
LFS_ROUTES: list[Endpoint] = [
    ("POST", r"\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", r"\.git/info/lfs/objects/verify", verify),
]
STORAGE_ROUTES: list[Endpoint] = [
    ("PUT", "/lfs/{sha256}", put_object),
    ("POST", "/lfs/{sha256}/complete", complete),
    ("PUT", "/lfs/{sha256}/{part}", put_part),
]
