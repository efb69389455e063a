"""From method and path to the function that answers; finds the token and the repository on the way."""

import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote

from tests.hub.exchange import Reply

from . import routes_checks, routes_files, routes_people, routes_pulls
from .access import identify, visible
from .exchange import Call, Endpoint, GitHubError, as_error

Route = tuple[str, re.Pattern[str], Callable[..., Reply]]
API = re.compile(r"/repos/(?P<name>[^/]+/[^/]+)(?P<tail>/.*)?")
GIT = re.compile(r"/(?P<name>[^/]+/[^/]+?)(?P<tail>\.git/.*)")
STORAGE = re.compile(r"/lfs/(?P<name>[^/]+/[^/]+)(?P<tail>/.*)")


def _compiled(routes: Iterable[Endpoint]) -> tuple[Route, ...]:
    """`{name}` stands for one path segment, `{name:pattern}` for whatever matches."""
    done = []
    for method, pattern, handler in routes:
        text = re.sub(r"\{(\w+):([^{}]*)\}", r"(?P<\1>\2)", pattern)
        done.append((method, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text)), handler))
    return tuple(done)


TOP = _compiled(routes_people.TOP_ROUTES)
BELOW_REPO = _compiled(
    [*routes_people.ROUTES, *routes_pulls.ROUTES, *routes_checks.ROUTES, *routes_files.ROUTES]
)
BELOW_GIT, BELOW_STORAGE = _compiled(routes_files.GIT_ROUTES), _compiled(routes_files.STORAGE_ROUTES)


def answer(call: Call) -> Reply:
    """The reply, refusals included."""
    try:
        return _dispatch(call)
    except GitHubError as error:
        return as_error(error)


def _dispatch(call: Call) -> Reply:
    for prefix, routes in ((STORAGE, BELOW_STORAGE), (GIT, BELOW_GIT)):
        if match := prefix.fullmatch(call.path):
            _find(call, match["name"])
            return _try(call, routes, match["tail"]) or _lost()
    identify(call)
    if match := API.fullmatch(call.path):
        _find(call, match["name"])
        if not visible(call, call.repo):
            return _lost()
        return _try(call, BELOW_REPO, match["tail"] or "") or _lost()
    return _try(call, TOP, call.path) or _lost()


def _find(call: Call, name: str) -> None:
    call.found = call.state.repos.get(unquote(name))
    if call.found is None:
        _lost()


def _try(call: Call, routes: Iterable[Route], path: str) -> Reply | None:
    for method, pattern, handler in routes:
        match = pattern.fullmatch(path)
        if match and call.method == method:
            return handler(call, **{name: unquote(text) for name, text in match.groupdict().items()})
    return None


def _lost() -> Reply:
    raise GitHubError(404, "Not Found")
