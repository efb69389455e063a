"""From method and path to the function that answers; finds the repository and who asks on the way."""

import re
from collections.abc import Callable, Iterable

from . import (
    pages,
    routes_account,
    routes_discussions,
    routes_files,
    routes_jobs,
    routes_oauth,
    routes_refs,
    routes_repo,
    routes_upload,
    routes_webhooks,
)
from .access import can_see, require_visible
from .errors import HubError, MovedError, repo_not_found
from .exchange import Call, Endpoint, Reply, as_error, unquoted
from .records import Repo

Handler = Callable[..., Reply]
Route = tuple[str, re.Pattern[str], Handler]
TYPES = {"models": "model", "datasets": "dataset", "spaces": "space", None: "model"}
ID = r"(?P<id>[^/]+/[^/]+?)"
API = re.compile(rf"/api/(?P<type>models|datasets|spaces)/{ID}(?P<tail>/.*)?")
BARE = re.compile(r"/api/models/(?P<id>[^/]+)(?:/revision/[^/]+)?")
FILES = re.compile(rf"/(?:(?P<type>datasets|spaces)/)?{ID}(?P<tail>/resolve/.*|\.git/info/lfs/.*)")
PAGES = re.compile(
    rf"/(?!api/)(?:(?P<type>datasets|spaces)/)?{ID}(?P<tail>/discussions/\d+|/tree/.*|/commit/.*)?"
)


def _compiled(routes: Iterable[Endpoint]) -> tuple[Route, ...]:
    """`{name}` stands for one path segment, `{name:path}` for the rest of the path."""
    done = []
    for methods, pattern, handler in routes:
        text = re.sub(r"\{(\w+):path\}", r"(?P<\1>.*)", pattern)
        done.append((methods, re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text)), handler))
    return tuple(done)


TOP = _compiled(
    [
        *routes_jobs.ROUTES,
        *routes_webhooks.ROUTES,
        *routes_account.ROUTES,
        *routes_files.STORAGE_ROUTES,
        *routes_upload.STORAGE_ROUTES,
        *pages.TOP_ROUTES,
    ]
)
BELOW_REPO = (
    (
        API,
        _compiled(
            [*routes_repo.ROUTES, *routes_refs.ROUTES, *routes_upload.ROUTES, *routes_discussions.ROUTES]
        ),
    ),
    (FILES, _compiled([*routes_files.ROUTES, *routes_upload.LFS_ROUTES])),
    (PAGES, _compiled(pages.ROUTES)),
)


def answer(call: Call) -> Reply:
    """The reply, refusals included."""
    try:
        if reply := routes_oauth.answer(call):
            return reply
        call.account = call.state.accounts.identify(call.headers.get("Authorization"))
        return _dispatch(call)
    except HubError as error:
        return as_error(error)
    except MovedError as moved:
        return _redirect(call, moved)


def _dispatch(call: Call) -> Reply:
    if reply := _try(call, TOP, call.path):
        return reply
    for prefix, routes in BELOW_REPO:
        if match := prefix.fullmatch(call.path):
            call.found = _repository(call, match)
            if reply := _try(call, routes, match["tail"] or ""):
                return reply
    if (bare := BARE.fullmatch(call.path)) and (new := call.state.store.moved("model", unquoted(bare["id"]))):
        raise MovedError(bare["id"], new)
    if "/resolve/" in call.path or re.match("/api/(models|datasets|spaces)/[^/]+$", call.path):
        raise repo_not_found(anonymous=call.account is None)
    raise HubError(404, "Sorry, we can't find the page you are looking for.")


def _try(call: Call, routes: Iterable[Route], path: str) -> Reply | None:
    for methods, pattern, handler in routes:
        match = pattern.fullmatch(path)
        if match and call.method in methods.split("|"):
            return handler(call, **{name: unquoted(text) for name, text in match.groupdict().items()})
    return None


def _repository(call: Call, match: re.Match[str]) -> Repo:
    repo_type, repo_id = TYPES[match["type"]], unquoted(match["id"])
    repo = call.state.store.find(repo_type, repo_id)
    new = call.state.store.moved(repo_type, repo_id)
    if repo is None and new:
        target = call.state.store.find(repo_type, new)
        if target and can_see(call.account, target):
            raise MovedError(match["id"], new)
    return require_visible(call.account, repo)


def _redirect(call: Call, moved: MovedError) -> Reply:
    """307, so that a POST stays a POST."""
    path = call.path.replace(moved.old, moved.new, 1)
    query = f"?{call.raw_query}" if call.raw_query else ""
    return Reply(307, {"Location": call.state.url + path + query})
