"""A call to the fake GitHub and its answers: JSON, pages with `Link`, and errors as GitHub words them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlencode

from tests.hub.exchange import Reply

from .state import Repo, State, Token

DOCS = "https://docs.github.com/rest"


class GitHubError(Exception):
    """A refusal, with the status and the sentence that GitHub uses."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


@dataclass
class Call:
    """A request: `path` has no prefix, `found` is the repository that it names, `base` is what URLs begin with."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    stream: BinaryIO
    state: State
    base: str
    token: Token | None = None
    jwt_app: int | None = None
    found: Repo | None = None

    @property
    def repo(self) -> Repo:
        assert self.found is not None, "only routes below a repository ask for it"
        return self.found

    @property
    def login(self) -> str:
        if self.token is None:
            raise GitHubError(401, "Requires authentication")
        return self.token.login

    def param(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.stream.read() or b"{}")
        except ValueError as error:
            raise GitHubError(400, "Problems parsing JSON") from error
        if not isinstance(value, dict):
            raise GitHubError(400, "Body should be a JSON object")
        return value


# Methods joined by "|", a path pattern, and what answers.
Endpoint = tuple[str, str, Callable[..., Reply]]


def as_json(value: Any, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Reply:
    body = b"" if status == 204 else json.dumps(value).encode()
    return Reply(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)


def as_error(error: GitHubError) -> Reply:
    body = {"message": error.message, "documentation_url": DOCS, "status": str(error.status)}
    return as_json(body, error.status, headers=error.headers)


def as_page(
    call: Call,
    items: Iterable[Any],
    shape: Callable[[Any], Any],
    *,
    within: str | None = None,
    most: int = 100,
) -> Reply:
    """One page of a listing, with the links that lead to its neighbours."""
    everything: Sequence[Any] = list(items)
    size = min(max(int(call.param("per_page", "30")), 1), most)
    page, last = int(call.param("page", "1")), max(-(-len(everything) // size), 1)
    shown: Any = [shape(item) for item in everything[(page - 1) * size : page * size]]
    links = {"next": page + 1, "last": last} if page < last else {}
    links |= {"prev": page - 1, "first": 1} if page > 1 else {}
    text = ", ".join(f'<{_page_url(call, number)}>; rel="{rel}"' for rel, number in links.items())
    body = {"total_count": len(everything), within: shown} if within else shown
    return as_json(body, headers={"Link": text} if text else {})


def _page_url(call: Call, number: int) -> str:
    query = {name: values[0] for name, values in call.query.items()} | {"page": str(number)}
    return f"{call.base}{call.path}?{urlencode(query)}"
