"""Branches, tags and the list of all refs."""

from .access import require_write
from .errors import HubError, revision_not_found
from .exchange import Call, Endpoint, Reply, as_json


def refs(call: Call) -> Reply:
    def listed(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in names.items()]

    repo = call.repo
    found = {
        "branches": listed(repo.branches, "refs/heads/"),
        "tags": listed(repo.tags, "refs/tags/"),
        "converts": [],
    }
    return as_json(
        found | ({"pullRequests": listed(repo.pulls, "refs/pr/")} if call.flag("include_prs") else {})
    )


def create_branch(call: Call, name: str) -> Reply:
    require_write(call.account, call.repo)
    start, store = str(call.json().get("startingPoint") or "main"), call.state.store
    with store.lock:
        if name in call.repo.branches:
            raise HubError(409, f"Reference already exists: refs/heads/{name}")
        if name.startswith("refs/"):
            raise HubError(400, f"Invalid branch name: {name}")
        call.repo.branches[name] = store.resolve(call.repo, start).oid
        store.save(call.repo)
    call.state.tell.pushed(call.repo, f"refs/heads/{name}", None, call.repo.branches[name])
    return as_json({"success": True})


def create_tag(call: Call, rev: str) -> Reply:
    require_write(call.account, call.repo)
    name, store = str(call.json().get("tag", "")), call.state.store
    with store.lock:
        if not name or name in call.repo.tags:
            raise HubError(409 if name else 400, f"Tag exists already or has no name: {name}")
        call.repo.tags[name] = store.resolve(call.repo, rev).oid
        store.save(call.repo)
    call.state.tell.pushed(call.repo, f"refs/tags/{name}", None, call.repo.tags[name])
    return as_json({"success": True})


def delete_ref(call: Call, kind: str, name: str) -> Reply:
    require_write(call.account, call.repo)
    names = call.repo.branches if kind == "branch" else call.repo.tags
    if kind == "branch" and name == "main":
        raise HubError(403, "The main branch cannot be deleted")
    with call.state.store.lock:
        if name not in names:
            raise revision_not_found(name)
        gone = names.pop(name)
        call.state.store.save(call.repo)
    full = f"refs/heads/{name}" if kind == "branch" else f"refs/tags/{name}"
    call.state.tell.pushed(call.repo, full, gone, None)
    return as_json({"success": True})


def delete_branch(call: Call, name: str) -> Reply:
    return delete_ref(call, "branch", name)


def delete_tag(call: Call, name: str) -> Reply:
    return delete_ref(call, "tag", name)


ROUTES: list[Endpoint] = [
    ("GET", "/refs", refs),
    ("POST", "/branch/{name}", create_branch),
    ("DELETE", "/branch/{name}", delete_branch),
    ("POST", "/tag/{rev}", create_tag),
    ("DELETE", "/tag/{name}", delete_tag),
]
