"""GitHub PRs, the comments of both kinds under them, and reactions to all of these."""

from tests.hub.exchange import Reply

from .access import require
from .exchange import Call, Endpoint, GitHubError, as_json, as_page
from .shapes import Shapes
from .state import Pull, Said

FILES = 3000
LONGEST = 65_536
REACTIONS = ("+1", "-1", "laugh", "confused", "heart", "hooray", "rocket", "eyes")
KINDS = {"issues": "issue", "pulls": "review"}


def pull(call: Call, number: str) -> Reply:
    require(call, "pull_requests", "read")
    return as_json(Shapes(call.state, call.base).pull(call.repo, _pull(call, number)))


def files(call: Call, number: str) -> Reply:
    require(call, "pull_requests", "read")
    found, shapes = _pull(call, number), Shapes(call.state, call.base)
    return as_page(call, found.files[:FILES], lambda file: shapes.file(call.repo, found, file))


def comments(call: Call, number: str) -> Reply:
    """Oldest first."""
    require(call, "issues", "read", also="pull_requests")
    found, shapes = _pull(call, number), Shapes(call.state, call.base)
    said = [c for c in call.repo.comments.values() if (c.number, c.kind) == (found.number, "issue")]
    return as_page(call, said, lambda comment: shapes.comment(call.repo, comment))


def post(call: Call, number: str) -> Reply:
    require(call, "issues", "write", also="pull_requests")
    found = _pull(call, number)
    if found.locked:
        raise GitHubError(403, "Unable to create comment because issue is locked.")
    with call.state.lock:
        said = Said(call.state.new_id(), found.number, call.login, _text(call))
        call.repo.comments[said.id] = said
    return as_json(Shapes(call.state, call.base).comment(call.repo, said), 201)


def comment(call: Call, part: str, key: str) -> Reply:
    require(call, "issues", "read", also="pull_requests")
    return as_json(Shapes(call.state, call.base).comment(call.repo, _said(call, part, key)))


def edit(call: Call, part: str, key: str) -> Reply:
    require(call, "issues", "write", also="pull_requests")
    said = _said(call, part, key)
    if said.author != call.login:
        raise GitHubError(403, "Must have admin rights to Repository.")
    said.body = _text(call)
    return as_json(Shapes(call.state, call.base).comment(call.repo, said))


def reactions(call: Call, part: str, key: str) -> Reply:
    require(call, "issues", "read", also="pull_requests")
    shapes, wanted = Shapes(call.state, call.base), call.param("content")
    shown = [(number, *one) for number, one in _reactions(call, part, key).items() if wanted in ("", one[1])]
    return as_page(call, shown, lambda one: shapes.reaction(*one))


def react(call: Call, part: str, key: str) -> Reply:
    """The same reaction again is answered with the first one."""
    require(call, "issues", "write", also="pull_requests")
    there, mine = _reactions(call, part, key), (call.login, call.json().get("content"))
    if mine[1] not in REACTIONS:
        raise GitHubError(422, "Validation Failed")
    known = next((number for number, one in there.items() if one == mine), None)
    number = known or call.state.new_id()
    there[number] = (mine[0], str(mine[1]))
    return as_json(Shapes(call.state, call.base).reaction(number, *there[number]), 200 if known else 201)


def unreact(call: Call, part: str, key: str, reaction: str) -> Reply:
    require(call, "issues", "write", also="pull_requests")
    there = _reactions(call, part, key)
    if int(reaction) not in there:
        raise GitHubError(404, "Not Found")
    del there[int(reaction)]
    return as_json(None, 204)


def _pull(call: Call, number: str) -> Pull:
    found = call.repo.pulls.get(int(number))
    if found is None:
        raise GitHubError(404, "Not Found")
    return found


def _said(call: Call, part: str, key: str) -> Said:
    found = call.repo.comments.get(int(key))
    if found is None or found.kind != KINDS[part]:
        raise GitHubError(404, "Not Found")
    return found


def _reactions(call: Call, part: str, key: str) -> dict[int, tuple[str, str]]:
    """`part` is `issues/` for those to a GitHub PR itself, else the kind of comment."""
    name, _, of_comment = part.partition("/")
    return _said(call, name, key).reactions if of_comment else _pull(call, key).reactions


def _text(call: Call) -> str:
    body = call.json().get("body")
    if not isinstance(body, str) or not body.strip() or len(body) > LONGEST:
        raise GitHubError(422, "Validation Failed")
    return body


THREAD = "/{part:(?:issues|pulls)/comments|issues}/{key:\\d+}/reactions"
COMMENT = "/{part:issues|pulls}/comments/{key:\\d+}"
ROUTES: list[Endpoint] = [
    ("GET", "/pulls/{number:\\d+}", pull),
    ("GET", "/pulls/{number:\\d+}/files", files),
    ("GET", "/issues/{number:\\d+}/comments", comments),
    ("POST", "/issues/{number:\\d+}/comments", post),
    ("GET", COMMENT, comment),
    ("PATCH", COMMENT, edit),
    ("GET", THREAD, reactions),
    ("POST", THREAD, react),
    ("DELETE", THREAD + "/{reaction:\\d+}", unreact),
]
