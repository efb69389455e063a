"""Errors of PyGithub and its HTTP client → ours, in one place. No sentence holds a token."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import requests
import urllib3
from github import GithubException, RateLimitExceededException

from bot.clients.github_retry import asked_wait
from bot.clients.hub_errors import redacted
from bot.errors import AccessError, HostError, InputError, MergeBotError, MergeError

LATER = "Try again in a few minutes; https://www.githubstatus.com tells whether GitHub is at fault."
MISSING = frozenset({404, 410})  # 410: it was there, and was deleted
UNREADABLE = (  # about an answer: no JSON, not what GitHub answers, links to another host
    ValueError, KeyError, TypeError, AttributeError, RuntimeError, AssertionError
)  # fmt: skip
FOREIGN = (GithubException, requests.RequestException, httpx2.HTTPError, OSError, *UNREADABLE)


@contextmanager
def translated(what: str, *, needs: str | None = None) -> Iterator[None]:
    """Around calls to GitHub; `what` completes "Could not …", `needs` is the permission, as in `issues: write`.

    Raises InputError, AccessError, HostError or MergeError in place of the client's errors. Errors of ours pass.
    """
    try:
        yield
    except FOREIGN as error:
        ours = _of(error, what, needs)
        if ours is None:
            raise
        raise ours from error


def is_missing(error: Exception) -> bool:
    """Whether GitHub says that what was asked for is not there."""
    return isinstance(error, GithubException) and error.status in MISSING


def lacking(what: str, needs: str, said: str = "") -> AccessError:
    """The token may not do that; the advice is the YAML to add."""
    return AccessError(
        f"Could not {what}: the GitHub token lacks the permission `{needs}`{said}.",
        advice=f"Add it to those of the workflow's job, `permissions: {{{needs}}}`. In workflows started by a GitHub "
        "PR from a fork the token only reads, whatever they say; a token of your own needs the same permission.",
        code="github-permission",
    )


def _of(error: Exception, what: str, needs: str | None) -> MergeBotError | None:
    if isinstance(error, RateLimitExceededException):
        return _limited(error.headers, what)
    if isinstance(error, GithubException):
        return declined(error.status, _message(error), what=what, needs=needs, headers=error.headers)
    if isinstance(error, httpx2.HTTPStatusError):
        return declined(error.response.status_code, _body(error.response), what=what, needs=needs)
    if _timed_out(error):
        return HostError(
            f"Could not {what}: GitHub did not answer in time.", advice=LATER, code="github-timeout"
        )
    if isinstance(error, requests.RequestException | httpx2.HTTPError):
        return HostError(
            f"Could not {what}: GitHub cannot be reached.",
            advice="Check the network, the proxy and GITHUB_API_URL, then try again.",
            code="github-unreachable",
        )
    return _disk(error, what) if isinstance(error, OSError) else _unreadable(what)


def declined(
    status: int, message: str, *, what: str, needs: str | None, headers: dict[str, str] | None = None
) -> MergeBotError:
    """Our error for an answer of GitHub's that is none; `message` is what GitHub says about it."""
    said = f" ({redacted(message).rstrip('.')})" if message else ""
    if status == 401:
        return AccessError(
            f"Could not {what}: GitHub does not accept the token{said}.",
            advice="Set GITHUB_TOKEN to a token that is valid; that of a workflow ends with its job.",
            code="github-bad-token",
        )
    if status == 429:
        return _limited(headers, what)
    if status == 403:
        return _forbidden(message, said, what, needs)
    if status in MISSING:
        return InputError(
            f"Could not {what}: there is no such thing on GitHub for this token.",
            advice=f"Check the name{f', and that the job has `permissions: {{{needs}}}`' if needs else ''}.",
            code="github-not-found",
        )
    if status >= 500:
        return HostError(
            f"Could not {what}: GitHub answered with status {status}.", advice=LATER, code="github-down"
        )
    return InputError(
        f"Could not {what}: GitHub declined with status {status}{said}.",
        advice="Read what GitHub says; if it makes no sense, open an issue with this sentence.",
        code="github-declined",
    )


def _forbidden(message: str, said: str, what: str, needs: str | None) -> AccessError:
    """A permission that lacks, or a rule that none helps against: archived, locked, blocked, single sign-on."""
    if needs and (
        not message or message.lower().startswith(("resource not accessible", "must have", "you must"))
    ):
        return lacking(what, needs, said)
    return AccessError(
        f"Could not {what}: GitHub does not allow it{said}.",
        advice="Read what GitHub says, and give the bot a token that may do this.",
        code="github-forbidden",
    )


def _limited(headers: dict[str, str] | None, what: str) -> HostError:
    wait = asked_wait(headers)
    when = f"in {wait:.0f} seconds" if wait else "in a few minutes"
    return HostError(
        f"Could not {what}: GitHub's rate limit is reached.",
        advice=f"Try again {when}, and have the bot do less at a time.",
        code="github-rate-limit",
        wait=wait,
    )


def _unreadable(what: str) -> HostError:
    return HostError(f"Could not {what}: GitHub's answer cannot be read.", advice=LATER, code="github-down")


def _timed_out(error: Exception) -> bool:
    """After several tries, requests hides what stopped the last one behind a lost connection."""
    reason = getattr(error.args[0] if error.args else None, "reason", error)
    return isinstance(
        reason, requests.Timeout | httpx2.TimeoutException | urllib3.exceptions.ReadTimeoutError
    )


def _disk(error: OSError, what: str) -> MergeError | None:
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return None
    return MergeError(
        f"Could not {what}: the disk is full.",
        advice="Free some space, or point MERGE_BOT_SCRATCH to a larger disk.",
        code="disk-full",
    )


def _message(error: GithubException) -> str:
    said = error.data.get("message") if isinstance(error.data, dict) else None
    return said if isinstance(said, str) else error.message or ""


def _body(response: httpx2.Response) -> str:
    try:
        said = response.json()["message"]
    except (ValueError, KeyError, TypeError, httpx2.ResponseNotRead):
        return ""
    return said if isinstance(said, str) else ""
