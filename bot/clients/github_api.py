"""One connection to GitHub's REST API through PyGithub: one way to ask, with retries, pages and our errors.

PyGithub's own objects ask for more behind the reader's back; here each request is one call, and `read` makes a record
of the JSON that came back.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from bot.errors import AccessError, InputError

try:
    from github import Auth, Github, GithubException
except ModuleNotFoundError as error:
    if error.name != "github":
        raise
    raise InputError(
        "GitHub's client PyGithub is not installed.",
        advice="Install the bot with it: pip install 'adapter-merge-bot[github]'.",
        code="github-client-missing",
    ) from None

from requests.exceptions import ChunkedEncodingError, RequestException
from requests.utils import parse_header_links
from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
)  # fmt: skip

from bot.clients.github_errors import is_missing, translated
from bot.clients.github_retry import Patience

T = TypeVar("T")
HEADERS = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
PAGE = 100
PAUSE = 1.0  # seconds between two writes, as GitHub asks of bots
TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry
REPOSITORY = re.compile(r"[\w-][\w.-]*/(?!\.{1,2}$)[\w.-]+", re.ASCII)


class Api:
    """GitHub's REST API with one way to authenticate, for one repository.

    Paths are relative to the repository, or start with a slash. Every method raises the errors of
    `bot.clients.github_errors.translated`; `what` and `needs` are its, too.
    """

    def __init__(
        self, repository: str, *, auth: Auth.Auth, url: str, timeout: float, attempts: int, patience: float
    ) -> None:
        self.repository = checked_repository(repository)
        self.url, self.timeout, self.attempts = checked_url(url), timeout, attempts
        client = Github(
            auth=auth,
            base_url=self.url,
            timeout=max(1, round(timeout)),  # PyGithub takes whole seconds
            user_agent="adapter-merge-bot",
            retry=Patience(patience=patience, total=attempts - 1),
            seconds_between_requests=None,
            seconds_between_writes=PAUSE,
        )
        self._requester = client.requester
        self._one_at_a_time = threading.RLock()  # PyGithub keeps one connection, with the request on it
        self._visible = False

    def ask(
        self,
        verb: str,
        path: str,
        *,
        what: str,
        read: Callable[[Any], T],
        needs: str | None = None,
        body: dict[str, Any] | None = None,
    ) -> T:
        """One request and what `read` makes of the answer."""
        with translated(what, needs=needs):
            return read(self._send(verb, self._below(path), body=body)[1])

    def find(
        self, path: str, *, what: str, read: Callable[[Any], T], needs: str | None = None, **parameters: Any
    ) -> T | None:
        """The same for a GET of what may not be there, which is None then. The repository itself must be."""
        with translated(what, needs=needs):
            try:
                return read(self._send("GET", self._below(path), parameters=parameters)[1])
            except GithubException as error:
                if not is_missing(error):
                    raise
        self._require_repository(needs)
        return None

    def pages(
        self,
        path: str,
        *,
        what: str,
        read: Callable[[Any], T],
        needs: str | None = None,
        within: str | None = None,
        **parameters: Any,
    ) -> Iterator[T]:
        """Every element of a listing, page by page; `within` is its key where a page is an object."""
        following: str | None = self._below(path)
        asked: dict[str, Any] | None = {**parameters, "per_page": PAGE}
        while following:
            with translated(what, needs=needs):
                headers, answer = self._send("GET", following, parameters=asked)
                elements = [read(element) for element in (answer[within] if within else answer)]
                links = parse_header_links(headers.get("link", ""))
            yield from elements
            following = next((link["url"] for link in links if link.get("rel") == "next"), None)
            asked = None  # the link has them

    def query(self, text: str, *, what: str, read: Callable[[Any], T]) -> T:
        """What `read` makes of the data of a GraphQL query. It changes nothing, so a fault of GitHub's is tried again.

        Raises InputError where GraphQL declines; a GitHub Enterprise Server has it beside `/api/v3`.
        """
        tries = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(self.attempts),
            wait=wait_exponential(multiplier=0.5, max=8.0),
            reraise=True,
        )
        with translated(what), self._one_at_a_time:
            return read(tries(lambda: self._requester.graphql_query(text, {}))[1]["data"])

    def _send(
        self, verb: str, url: str, *, parameters: dict[str, Any] | None = None, body: Any = None
    ) -> tuple[dict[str, Any], Any]:
        """One request; a GET again when its answer broke off, which PyGithub's own retry does not see."""
        tries = Retrying(
            retry=retry_if_exception_type(ChunkedEncodingError),
            stop=stop_after_attempt(self.attempts if verb == "GET" else 1),
            reraise=True,
        )
        with self._one_at_a_time:
            answer = tries(
                lambda: self._requester.requestJsonAndCheck(
                    verb, url, parameters=parameters, headers=dict(HEADERS), input=body
                )
            )
        self._visible = True
        return answer

    def _below(self, path: str) -> str:
        return path if path.startswith("/") else f"/repos/{self.repository}/{path}".rstrip("/")

    def _require_repository(self, needs: str | None) -> None:
        """GitHub says 404 for what the token may not see; whether that is the whole repository, one request tells."""
        if not self._visible:
            self.ask("GET", "", what=f"open {self.repository}", read=nothing, needs=needs)


def _may_pass(error: BaseException) -> bool:
    """Whether a query may succeed a little later."""
    if isinstance(error, GithubException):
        return error.status >= 500
    return isinstance(error, RequestException)


def nothing(_: Any) -> None:
    """For answers that say nothing new."""


Token = str | Callable[[], str]  # one that stays, or what gives the one of the moment


class Renewed(Auth.Auth):
    """Signs each request with the token of the moment."""

    def __init__(self, current: Callable[[], str]) -> None:
        self._current = current

    @property
    def token_type(self) -> str:
        return "token"

    @property
    def token(self) -> str:
        return self._current()


def token_auth(token: Token) -> Auth.Auth:
    """Raises AccessError for what cannot be a token: whoever else complained would quote it."""
    if not isinstance(token, str):
        return Renewed(token)
    if not TOKEN.fullmatch(token):
        raise AccessError(
            "The GitHub token is empty, or holds characters that no token has.",
            advice="Set GITHUB_TOKEN to the token and nothing else; in a workflow, ${{ github.token }}.",
            code="github-bad-token",
        )
    return Auth.Token(token)


def app_auth(app_id: int | str, private_key: str) -> Auth.AppAuth:
    """Signs once, to see that the key is one: raises InputError. The signer's own error may quote the key."""
    try:
        auth = Auth.AppAuth(app_id, private_key)
        auth.create_jwt()
    except Exception:  # noqa: BLE001  # AssertionError, ValueError, and whatever the cryptography below it raises
        raise InputError(
            "The private key of the GitHub App cannot be read.",
            advice="Give the whole .pem file that GitHub made, with its first and last line, and the App's id.",
            code="github-bad-key",
        ) from None
    return auth


def checked_repository(name: str) -> str:
    """Raises InputError for what is no `owner/name`."""
    if not REPOSITORY.fullmatch(name):
        raise InputError(
            f"{name[:100]!r} is not the name of a repository on GitHub.",
            advice="Name it as owner/name.",
            code="github-bad-name",
        )
    return name


def checked_url(url: str) -> str:
    """Raises InputError for what is no address of an API."""
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname or parts.username:
        raise InputError(
            "The address of GitHub's API is none.",
            advice="Set GITHUB_API_URL to https://api.github.com, or to https://HOST/api/v3 of your server.",
            code="github-bad-url",
        )
    return url.rstrip("/")


def web_url(api_url: str) -> str:
    """The site that belongs to an API: github.com, NAME.ghe.com, or a GitHub Enterprise Server's own."""
    parts = urlsplit(api_url)
    path = parts.path.removesuffix("/api/v3")
    return urlunsplit((parts.scheme, parts.netloc.removeprefix("api."), path, "", ""))
