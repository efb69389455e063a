"""How long GitHub may let us wait: PyGithub's retry, with a bound on all the waits of one request together."""

from __future__ import annotations

from collections.abc import Mapping
from time import sleep, time
from typing import Any, Self

from github import GithubException, GithubRetry, RateLimitExceededException
from urllib3.exceptions import MaxRetryError

LIMITED = frozenset({403, 429})  # GitHub's rate limits come as either, and such a request was not carried out
AGAIN = frozenset({*LIMITED, 500, 502, 503, 504})
REPEATABLE = frozenset(
    {"GET", "HEAD", "PUT", "DELETE", "PATCH"}
)  # a POST whose answer was lost may have happened


class Patience(GithubRetry):
    """Retries what may succeed a little later: `total` times, and for `patience` seconds of waiting at most.

    PyGithub tells rate limits from other 403s, and then sleeps for as long as they ask, an hour if they ask for one.
    https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
    """

    def __init__(self, *, patience: float, **options: Any) -> None:
        self.patience, self.wait = patience, 0.0
        ours = {"status_forcelist": [*AGAIN], "allowed_methods": REPEATABLE, "raise_on_status": False}
        super().__init__(**{"backoff_factor": 0.5, **ours, **options})

    def new(self, **changes: Any) -> Self:
        return super().new(**{"patience": self.patience, **changes})

    def is_retry(self, method: str, status_code: int, *rest: Any, **named: Any) -> bool:
        """Whether `increment` is asked about this answer."""
        return status_code in LIMITED or super().is_retry(method, status_code, *rest, **named)

    def increment(
        self, method: Any = None, url: Any = None, response: Any = None, *rest: Any, **named: Any
    ) -> Self:
        """The retry that comes next. Raises PyGithub's errors for a 403 that is no rate limit and for a long wait."""
        try:
            following: Self = super().increment(method, url, response, *rest, **named)  # type: ignore[assignment]
        except MaxRetryError:
            if response is not None and response.status in LIMITED:
                raise _declined(response, asked_wait(response.headers)) from None
            raise
        asked = asked_wait(response.headers) if response is not None else None
        following.wait = following.get_backoff_time() if asked is None else asked
        if response is not None and following.wait > self.patience:
            raise _declined(response, following.wait)
        following.patience = self.patience - following.wait
        return following

    def sleep(self, response: Any = None) -> None:  # noqa: ARG002  # `increment` has read it
        sleep(self.wait)


def asked_wait(headers: Mapping[str, Any] | None) -> float | None:
    """How many seconds GitHub asks us to wait, by `Retry-After` or its rate limit's headers; None: it does not say."""
    known = {name.lower(): str(value) for name, value in (headers or {}).items()}
    after, reset = known.get("retry-after", ""), known.get("x-ratelimit-reset", "")
    if after.isascii() and after.isdecimal():
        return float(after)
    if known.get("x-ratelimit-remaining") == "0" and reset.isascii() and reset.isdecimal():
        return max(float(reset) - time(), 0.0) + 1.0  # it does not say when in that second
    return None


def _declined(response: Any, wait: float | None) -> GithubException:
    told = {"retry-after": f"{wait:.0f}"} if wait is not None else {}
    kind = RateLimitExceededException if response.status in LIMITED else GithubException
    return kind(response.status, None, {**{k.lower(): v for k, v in response.headers.items()}, **told})
