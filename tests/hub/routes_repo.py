"""Routes about one repository's metadata: info, tree, commits, rights, settings."""

import hashlib
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from .access import require_download, require_write
from .cards import card_data, json_of, model_config, parameters, safetensors_header, tags
from .errors import entry_not_found
from .exchange import Call, Endpoint, Reply, as_json
from .records import Commit, FileEntry, Repo

COMMITS_PAGE = 50


def info(call: Call, repo: Repo, commit: Commit, *, blobs: bool = False) -> dict[str, Any]:
    """What `model_info` shows, derived from the commit's files."""
    store = call.state.store
    card, config = card_data(store.blobs, commit), model_config(store.blobs, commit)
    shown = {
        "_id": repo.key,
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.oid,
        "lastModified": commit.date,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags(card, commit, config),
        "cardData": card,
        "siblings": [_sibling(path, entry, blobs=blobs) for path, entry in commit.files.items()],
        "usedStorage": sum(entry.size for entry in commit.files.values()),
    }
    if repo.type == "model":
        shown |= {"modelId": repo.id, "config": config, "spaces": []}
        shown |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
        if total := parameters(store.blobs, commit):
            shown["safetensors"] = total
    return shown


def _sibling(path: str, entry: FileEntry, *, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    lfs = {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    return {"rfilename": path, "size": entry.size, "blobId": entry.oid} | ({"lfs": lfs} if entry.lfs else {})


def repo_info(call: Call, rev: str = "main") -> Reply:
    commit = call.state.store.resolve(call.repo, rev)
    shown = info(call, call.repo, commit, blobs=call.flag("blobs"))
    if call.flag("securityStatus"):
        shown["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    return as_json(shown)


def _last_change(call: Call, commit: Commit, path: str) -> dict[str, str]:
    """The newest commit after which the path, file or folder, looked as it does now."""
    store, inside = call.state.store, path + "/"
    then = commit
    for older in store.history(call.repo, commit):
        paths = {p for p in (*older.files, *commit.files) if p == path or p.startswith(inside)}
        if any(older.files.get(p) != commit.files.get(p) for p in paths):
            break
        then = older
    return {"id": then.oid, "title": then.title, "date": then.date}


def _file(call: Call, commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
    entry = commit.files[path]
    item: dict[str, Any] = {"type": "file", "path": path, "oid": entry.oid, "size": entry.size}
    if entry.lfs:
        item["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    if xet_hash := call.state.store.xet_hash(entry):
        item["xetHash"] = xet_hash
    if expand:
        safe = {"status": "safe", "avScan": {"virusFound": False}, "pickleImportScan": None}
        item |= {"lastCommit": _last_change(call, commit, path), "securityFileStatus": safe}
    return item


def _folder(call: Call, commit: Commit, path: str, *, expand: bool) -> dict[str, Any]:
    content = sorted((p, e.oid) for p, e in commit.files.items() if p.startswith(path + "/"))
    item: dict[str, Any] = {"type": "directory", "path": path, "size": 0}
    item["oid"] = hashlib.sha1(repr(content).encode()).hexdigest()
    return item | ({"lastCommit": _last_change(call, commit, path)} if expand else {})


def _below(files: Iterable[str], top: str, *, recursive: bool) -> list[str]:
    """Paths of files and folders below `top`, folders with a slash at the end."""
    start = f"{top}/" if top else ""
    found: set[str] = set()
    for path in (p for p in files if p.startswith(start)):
        steps = path[len(start) :].split("/")
        folders = [start + "/".join(steps[: depth + 1]) + "/" for depth in range(len(steps) - 1)]
        found.update(folders if recursive else folders[:1])
        if recursive or not folders:
            found.add(path)
    return sorted(found)


def next_page(call: Call, **changes: Any) -> dict[str, str]:
    query = {key: values[0] for key, values in call.query.items()} | changes
    return {"Link": f'<{call.state.url}{call.path}?{urlencode(query)}>; rel="next"'}


def tree(call: Call, rev: str, path: str = "") -> Reply:
    commit, expand = call.state.store.resolve(call.repo, rev), call.flag("expand")
    top = path.strip("/")
    listed = _below(commit.files, top, recursive=call.flag("recursive"))
    if top and not listed:
        raise entry_not_found(top, commit.oid)
    start, size = call.number("cursor", 0), call.state.tree_page
    page = [
        _folder(call, commit, p.rstrip("/"), expand=expand)
        if p.endswith("/")
        else _file(call, commit, p, expand=expand)
        for p in listed[start : start + size]
    ]
    reply = as_json(page)
    reply.headers |= next_page(call, cursor=start + size) if start + size < len(listed) else {}
    return reply


def paths_info(call: Call, rev: str) -> Reply:
    """Unknown paths are left out. LFS files always get an `xetHash` here, which the client's server-side copy asks for;
    without Xet storage `tree` gives none, since a client with hf_xet would then download through Xet."""
    form = call.form()
    commit = call.state.store.resolve(call.repo, rev)
    expand = form.get("expand", [""])[0].lower() in ("true", "1")
    found = []
    for path in (p.strip("/") for p in form.get("paths", [])):
        if path in commit.files:
            item = _file(call, commit, path, expand=expand)
            found.append(({"xetHash": item["lfs"]["oid"]} if "lfs" in item else {}) | item)
        elif any(p.startswith(path + "/") for p in commit.files):
            found.append(_folder(call, commit, path, expand=expand))
    return as_json(found)


def commits(call: Call, rev: str) -> Reply:
    store = call.state.store
    history = list(store.history(call.repo, store.resolve(call.repo, rev)))
    start = call.number("p", 0) * COMMITS_PAGE
    page = [
        {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
        for c in history[start : start + COMMITS_PAGE]
    ]
    reply = as_json(page, X_Total_Count=str(len(history)))
    more = start + COMMITS_PAGE < len(history)
    reply.headers |= next_page(call, p=call.number("p", 0) + 1) if more else {}
    return reply


def auth_check(call: Call) -> Reply:
    require_download(call.account, call.repo)
    return as_json({})


def auth_check_write(call: Call) -> Reply:
    require_write(call.account, call.repo)
    return as_json({})


def settings(call: Call) -> Reply:
    require_write(call.account, call.repo)
    body, repo = call.json(), call.repo
    with call.state.store.lock:
        if "visibility" in body or "private" in body:
            repo.private = body.get("visibility") == "private" or body.get("private") is True
        repo.gated = body.get("gated", repo.gated)
        call.state.store.save(repo)
    call.state.tell.configured(
        repo, {"private": repo.private} if {"visibility", "private"} & body.keys() else {}
    )
    return as_json({"private": repo.private, "gated": repo.gated})


def safetensors_metadata(call: Call, path: str) -> Reply:
    """The index and all shards' headers in one answer, for main."""
    require_download(call.account, call.repo)
    store = call.state.store
    commit = store.resolve(call.repo, "main")
    store.entry(commit, path)
    index = json_of(store.blobs, commit, path)
    shards = sorted(set(index.get("weight_map", {}).values()))
    headers = {shard: safetensors_header(store.blobs, store.entry(commit, shard)) for shard in shards}
    return as_json({"index": index, "headers": headers})


ROUTES: list[Endpoint] = [
    ("GET", "", repo_info),
    ("GET", "/revision/{rev}", repo_info),
    ("GET", "/tree/{rev}", tree),
    ("GET", "/tree/{rev}/{path:path}", tree),
    ("POST", "/paths-info/{rev}", paths_info),
    ("GET", "/commits/{rev}", commits),
    ("GET", "/auth-check", auth_check),
    ("GET", "/auth-check/write", auth_check_write),
    ("PUT", "/settings", settings),
    ("GET", "/safetensors-metadata/{path:path}", safetensors_metadata),
]
