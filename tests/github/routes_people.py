"""Who is who: the token's holder, roles in a repository, Apps and their installations."""

import secrets
import time

from tests.hub.exchange import Reply

from .access import LEVELS, level, role
from .exchange import Call, Endpoint, GitHubError, as_json
from .shapes import Shapes
from .state import App, Token

PROFILE = ("bio", "blog", "company", "email", "hireable", "location", "name")
COUNTS = ("followers", "following", "public_gists", "public_repos")


def user(call: Call) -> Reply:
    if call.token and call.token.kind != "personal":
        raise GitHubError(403, "Resource not accessible by integration")
    shown = Shapes(call.state, call.base).user(call.login) or {}
    stamps = dict.fromkeys(("created_at", "updated_at"), "2020-01-01T00:00:00Z")
    return as_json({**shown, **dict.fromkeys(PROFILE), **dict.fromkeys(COUNTS, 0), **stamps})


def graphql(call: Call) -> Reply:
    """The one query that we ask, and how GraphQL declines others: by a 200 with errors in it."""
    if call.token is None:
        raise GitHubError(401, "This endpoint requires you to be authenticated.")
    if call.json().get("query") != "{viewer{login}}":
        return as_json({"errors": [{"type": "undefinedField", "message": "not known here"}]})
    return as_json({"data": {"viewer": {"login": call.login}}})


def repository(call: Call) -> Reply:
    return as_json(Shapes(call.state, call.base).repo(call.repo))


def permission(call: Call, login: str) -> Reply:
    if LEVELS[level(call, call.repo, "metadata")] < LEVELS["read"] or call.token is None:
        raise GitHubError(403, "Must have push access to view collaborator permission.")
    if login not in call.state.accounts:
        raise GitHubError(404, f"{login} is not a user")
    word, name = role(call.state, call.repo, login)
    shown = Shapes(call.state, call.base).user(login) or {}
    return as_json({"permission": word, "role_name": name, "user": {**shown, "role_name": name}})


def app(call: Call) -> Reply:
    found = _app(call)
    owner = Shapes(call.state, call.base).user("acme")
    page = f"{call.state.url}/apps/{found.slug}"
    texts = {
        "slug": found.slug,
        "name": found.slug,
        "description": None,
        "external_url": page,
        "html_url": page,
    }
    stamps = dict.fromkeys(("created_at", "updated_at"), "2020-01-01T00:00:00Z")
    ids = {"id": found.id, "node_id": f"A_{found.id}", "client_id": "Iv1.0"}
    return as_json({**ids, **texts, **stamps, "owner": owner, "permissions": found.permissions, "events": []})


def installation(call: Call) -> Reply:
    found = _app(call)
    number = found.installed.get(call.repo.full_name)
    if number is None:
        raise GitHubError(404, "Not Found")
    account = Shapes(call.state, call.base).user(call.repo.owner) or {}
    url = f"{call.base}/app/installations/{number}"
    return as_json(
        {
            "id": number,
            "account": account,
            "repository_selection": "selected",
            "access_tokens_url": f"{url}/access_tokens",
            "repositories_url": f"{call.base}/installation/repositories",
            "html_url": f"{call.state.url}/settings/installations/{number}",
            "app_id": found.id,
            "app_slug": found.slug,
            "target_id": account["id"],
            "target_type": account["type"],
            "permissions": found.permissions,
            "events": [],
            **dict.fromkeys(("created_at", "updated_at"), "2020-01-01T00:00:00Z"),
            **dict.fromkeys(("single_file_name", "suspended_by", "suspended_at")),
        }
    )


def access_token(call: Call, number: str) -> Reply:
    found, body = _app(call), call.json()
    places = [name for name, one in found.installed.items() if str(one) == number]
    if not places:
        raise GitHubError(404, "Not Found")
    wanted = body.get("repositories") or [name.partition("/")[2] for name in places]
    chosen = [name for name in places if name.partition("/")[2] in wanted]
    granted = body.get("permissions") or found.permissions
    if len(chosen) < len(wanted):
        raise GitHubError(422, "There is at least one repository that does not exist or is not accessible.")
    if any(LEVELS[value] > LEVELS[found.permissions.get(key, "none")] for key, value in granted.items()):
        raise GitHubError(422, "The permissions requested are not granted to this installation.")
    token = "ghs_" + secrets.token_hex(20)
    permissions = {**granted, "metadata": "read"}
    call.state.tokens[token] = Token(f"{found.slug}[bot]", "app", permissions, frozenset(chosen))
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    told = {
        "token": token,
        "expires_at": expires,
        "permissions": permissions,
        "repository_selection": "selected",
    }
    return as_json(told, 201)


def _app(call: Call) -> App:
    if call.jwt_app is None:
        raise GitHubError(401, "A JSON web token could not be decoded")
    return call.state.apps[call.jwt_app]


TOP_ROUTES: list[Endpoint] = [
    ("POST", "/graphql", graphql),
    ("POST", "/api/graphql", graphql),
    ("GET", "/user", user),
    ("GET", "/app", app),
    ("POST", "/app/installations/{number}/access_tokens", access_token),
]
ROUTES: list[Endpoint] = [
    ("GET", "", repository),
    ("GET", "/collaborators/{login}/permission", permission),
    ("GET", "/installation", installation),
]
