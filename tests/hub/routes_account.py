"""Routes that belong to no single repository: who am I, creating and moving repositories, listings."""

import hashlib
import json
from typing import Any

from .access import can_see, require_namespace, require_visible, require_write
from .accounts import Account
from .cards import complaints
from .deliveries import user_id
from .errors import HubError, repo_not_found
from .exchange import Call, Endpoint, Reply, as_json
from .records import Repo
from .routes_repo import info, next_page


def member(call: Call) -> Account:
    if call.account is None:
        raise HubError(401, "Invalid username or password.")
    return call.account


def whoami(call: Call) -> Reply:
    account = member(call)
    orgs = [
        {"type": "org", "id": user_id(org), "name": org, "fullname": org, "roleInOrg": "write"}
        for org in account.orgs
    ]
    token = {"displayName": "loopback", "role": account.role, "createdAt": "2024-01-01T00:00:00.000Z"}
    about = {"type": "user", "id": user_id(account.name), "name": account.name, "fullname": account.name}
    rest = {"email": f"{account.name}@example.org", "emailVerified": True, "isPro": False, "orgs": orgs}
    return as_json({**about, **rest, "auth": {"type": "access_token", "accessToken": token}})


def user_overview(call: Call, name: str) -> Reply:
    if not call.state.accounts.exists(name):
        raise HubError(404, "This user does not exist")
    orgs = [
        {"id": user_id(org), "name": org, "fullname": org, "avatarUrl": ""}
        for org in call.state.accounts.orgs(name)
    ]
    return as_json(
        {"user": name, "fullname": name, "avatarUrl": "", "type": "user", "isPro": False, "orgs": orgs}
    )


def agent_harnesses(call: Call) -> Reply:
    raise HubError(404, "Not found")


def validate_yaml(call: Call) -> Reply:
    errors = [{"message": text} for text in complaints(str(call.json().get("content", "")))]
    return as_json({"errors": errors, "warnings": []}, 400 if errors else 200)


def oauth_token(call: Call) -> Reply:
    """A workflow's statement, unsigned here, for a token: https://huggingface.co/docs/hub/trusted-publishers."""
    body = call.json()
    resource = str(body.get("resource"))
    try:
        claims = json.loads(body.get("subject_token", ""))
    except ValueError as error:
        raise HubError(400, "Invalid subject token") from error
    if claims.get("aud") != call.state.url or claims.get("sub") not in call.state.trusted.get(resource, ()):
        raise HubError(403, "No trusted publisher matches this token")
    token = call.state.accounts.lend(resource.split("/", maxsplit=1)[0])
    return as_json({"access_token": token, "token_type": "bearer", "expires_in": 3600})


def _target(call: Call, body: dict[str, Any]) -> tuple[str, str]:
    owner = body.get("organization") or (call.account.name if call.account else "")
    return str(body.get("type") or "model"), f"{owner}/{body.get('name', '')}"


def create_repo(call: Call) -> Reply:
    body = call.json()
    kind, repo_id = _target(call, body)
    if kind not in ("model", "dataset", "space"):
        raise HubError(400, f"Invalid repository type: {kind}")
    account = require_namespace(call.account, repo_id.split("/")[0], kind)
    private = body.get("visibility") == "private" or body.get("private") is True
    store = call.state.store
    with store.lock:
        there = store.find(kind, repo_id)
        repo = there or store.create(kind, repo_id, author=account.name, private=private)
    answer: dict[str, Any] = {"url": f"{call.state.url}/{repo.page}", "name": repo.id, "id": repo.key}
    if there:
        return as_json({**answer, "error": f"You already created this {kind} repo: {repo_id}"}, 409)
    call.state.tell.changed(repo, "create")
    return as_json(answer)


def _existing(call: Call, kind: str, repo_id: str) -> Repo:
    repo = require_visible(call.account, call.state.store.find(kind, repo_id))
    require_write(call.account, repo)
    return repo


def delete_repo(call: Call) -> Reply:
    kind, repo_id = _target(call, call.json())
    repo = _existing(call, kind, repo_id)
    call.state.store.delete(repo)
    call.state.tell.changed(repo, "delete")
    return as_json({"success": True})


def move_repo(call: Call) -> Reply:
    body = call.json()
    repo = _existing(call, str(body.get("type") or "model"), str(body.get("fromRepo")))
    new = str(body.get("toRepo"))
    require_namespace(call.account, new.split("/", maxsplit=1)[0], repo.type)
    old = repo.id
    call.state.store.move(repo, new)
    _tell_moved(call, repo, old)
    return as_json({"success": True, "url": f"{call.state.url}/{repo.page}"})


def _tell_moved(call: Call, repo: Repo, old: str) -> None:
    owner = {"id": user_id(repo.namespace)}
    call.state.tell.changed(repo, "move", name=old, movedTo={"name": repo.id, "owner": owner})


SORTED = {
    "lastModified": "lastModified",
    "createdAt": "createdAt",
    "downloads": "downloads",
    "likes": "likes",
}


def list_repos(call: Call, types: str) -> Reply:
    """Newest first, filtered by author, words of the name, and tags; in pages; 304 where nothing has changed."""
    kind = types.removesuffix("s")
    if kind not in ("model", "dataset", "space"):
        raise repo_not_found(anonymous=call.account is None)
    wanted = set(call.query.get("filter", []))
    author, search = call.param("author"), call.param("search").lower()
    visible = [repo for repo in call.state.store.all(kind) if can_see(call.account, repo)]
    named = [repo for repo in visible if search in repo.id.lower() and author in ("", repo.namespace)]
    shown = [info(call, repo, call.state.store.resolve(repo, "main")) for repo in named]
    shown = [item for item in shown if wanted <= set(item["tags"])]
    shown.sort(key=lambda item: item[SORTED.get(call.param("sort"), "lastModified")], reverse=True)
    hidden = () if call.flag("full") else ("siblings", "config", "safetensors", "cardData")
    slim = [{key: value for key, value in item.items() if key not in hidden} for item in shown]
    start, size = call.number("cursor", 0), min(call.number("limit", 1000), call.state.list_page)
    reply = as_json(slim[start : start + size])
    if start + size < len(slim):
        reply.headers |= next_page(call, cursor=start + size)
    return _unless_known(call, reply)


def _unless_known(call: Call, reply: Reply) -> Reply:
    tag = f'W/"{hashlib.sha256(reply.body).hexdigest()[:32]}"' if isinstance(reply.body, bytes) else ""
    if call.headers.get("If-None-Match") == tag:
        return Reply(304, {"ETag": tag})
    reply.headers["ETag"] = tag
    return reply


ROUTES: list[Endpoint] = [
    ("POST", "/oauth/token", oauth_token),
    ("GET", "/api/whoami-v2", whoami),
    ("GET", "/api/users/{name}/overview", user_overview),
    ("GET", "/api/agent-harnesses", agent_harnesses),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", "/api/repos/create", create_repo),
    ("DELETE", "/api/repos/delete", delete_repo),
    ("POST", "/api/repos/move", move_repo),
    ("GET", "/api/{types}", list_repos),
]
