"""Whose token it is, what it may do, and how GitHub refuses."""

import time

import jwt

from .exchange import Call, GitHubError
from .state import Repo, State

LEVELS = {"none": 0, "read": 1, "write": 2, "admin": 3}
ROLES = {
    "admin": "admin",
    "maintain": "write",
    "write": "write",
    "triage": "read",
    "read": "read",
    "none": "none",
}
INACCESSIBLE = {
    "app": "Resource not accessible by integration",
    "actions": "Resource not accessible by integration",
    "personal": "Resource not accessible by personal access token",
}


def identify(call: Call) -> None:
    """Sets the token, or the App that signed a JWT. A token that nobody holds is an error of its own."""
    kind, _, text = call.headers.get("Authorization", "").partition(" ")
    if not kind:
        return
    if kind == "Bearer" and text.count(".") == 2:
        call.jwt_app = _app(call.state, text)
    elif kind.lower() in {"token", "bearer"} and text in call.state.tokens:
        call.token = call.state.tokens[text]
    else:
        raise GitHubError(401, "Bad credentials")


def _app(state: State, signed: str) -> int:
    number = int(jwt.decode(signed, options={"verify_signature": False})["iss"])
    try:
        claims = jwt.decode(signed, state.apps[number].public_key, algorithms=["RS256"])
    except (KeyError, jwt.PyJWTError) as error:
        raise GitHubError(401, "A JSON web token could not be decoded") from error
    if claims["exp"] > time.time() + 600:
        raise GitHubError(401, "'Expiration time' claim ('exp') is too far in the future")
    return number


def role(state: State, repo: Repo, login: str) -> tuple[str, str]:
    """What somebody may do, as GitHub's two words for it: the permission and the name of the role."""
    name = "admin" if login == repo.owner else repo.roles.get(login, "none" if repo.private else "read")
    if name in repo.custom_roles:
        return repo.custom_roles[name], name
    return ROLES[name], name


def level(call: Call, repo: Repo, permission: str) -> str:
    """`none`, `read`, `write` or `admin`: what this token may do with that part of the repository."""
    token = call.token
    open_to_all = "none" if repo.private else "read"
    if token is None:
        return open_to_all
    if token.kind == "personal":
        # Whoever sees a repository may comment there.
        talk = permission in {"issues", "pull_requests"}
        own = "write" if talk else role(call.state, repo, token.login)[0]
    else:
        own = "write" if repo.full_name in token.repositories else "none"
    if token.permissions is None:
        return own
    granted = token.permissions.get(permission, "none")
    return max(min(own, granted, key=LEVELS.__getitem__), open_to_all, key=LEVELS.__getitem__)


def visible(call: Call, repo: Repo) -> bool:
    """Private repositories do not exist for those who may not see them."""
    if not repo.private or call.jwt_app:
        return True
    token = call.token
    if token is None:
        return False
    if token.kind != "personal":
        return repo.full_name in token.repositories
    return role(call.state, repo, token.login)[0] != "none"


def require(call: Call, permission: str, wanted: str, *, also: str | None = None) -> None:
    """Some endpoints take either of two permissions."""
    if wanted == "write" and call.token is None:
        raise GitHubError(401, "Requires authentication")
    if wanted == "write" and call.repo.archived:
        raise GitHubError(403, "Repository was archived so is read-only.")
    names = [permission, *([also] if also else [])]
    if any(LEVELS[level(call, call.repo, name)] >= LEVELS[wanted] for name in names):
        return
    headers = {"X-Accepted-GitHub-Permissions": "; ".join(f"{name}={wanted}" for name in names)}
    raise GitHubError(403, INACCESSIBLE[call.token.kind if call.token else "personal"], headers=headers)
