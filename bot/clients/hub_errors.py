"""Errors of huggingface_hub and its HTTP client → ours, in one place. No sentence holds a token."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
    XetDownloadError,
)

from bot.clients.http import TRANSIENT, asked_wait
from bot.errors import AccessError, HostError, InputError, MergeBotError, MergeError
from bot.secret_text import MASK, masked

TOKENS = re.compile(
    r"(hf|api_org)_\w+|Bearer\s+\S+", re.IGNORECASE
)  # the client's own words know no other hf_
FOREIGN = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    OSError,
    ValueError,
    RevisionResolutionError,
    EntryNotFoundError,
)
CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})  # of a cache
LATER = "Try again in a few minutes; https://status.huggingface.co tells whether the Hub is at fault."


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Around calls to the Hub; `what` completes "Could not …". Also a decorator.

    Raises InputError, AccessError, HostError or MergeError in place of the client's errors. Errors of ours, and what
    is no error of the Hub, the network or the disk, pass through.
    """
    try:
        yield
    except (UnicodeEncodeError, httpx2.LocalProtocolError):
        # From None: the client's own text quotes the header that it could not send, which is the token.
        raise _bad_token(what) from None
    except (*FOREIGN, XetDownloadError) as error:
        ours = of(error, what=what)
        if ours is None:
            raise
        raise ours from error


def of(error: Exception, *, what: str) -> MergeBotError | None:
    """Our error for one of the client's; None when it is not about the Hub, the network or the disk."""
    for kind, build in BY_TYPE:
        if isinstance(error, kind):
            return build(error, what)
    return None


def redacted(text: str) -> str:
    """A stranger's text on one line, at most 200 characters, without anything that looks like a token."""
    line = " ".join(TOKENS.sub(MASK, masked(text)).split())
    return line if len(line) <= 200 else line[:199] + "…"


def _bad_token(what: str) -> AccessError:
    return AccessError(
        f"Could not {what}: the Hub does not accept the token.",
        advice="Make a new token at https://huggingface.co/settings/tokens and set HF_TOKEN to it, nothing else.",
        code="bad-token",
    )


def _no_repository(error: HfHubHTTPError, what: str) -> MergeBotError:
    if error.response.status_code != 404:
        return _unauthorized(error, what)
    return InputError(
        f"Could not {what}: there is no such repository on {error.response.request.url.host}.",
        advice="Check the spelling of owner/name; if it is private, set HF_TOKEN to a token that may read it.",
        code="not-found",
    )


def _unauthorized(error: HfHubHTTPError, what: str) -> AccessError:
    if "invalid credentials" in str(error.server_message or error).lower():
        return _bad_token(what)
    return AccessError(
        f"Could not {what}: the repository does not exist or is private.",
        advice="Check the spelling of owner/name, and set HF_TOKEN to a token that may read it.",
        code="no-access",
    )


def _gated(error: GatedRepoError, what: str) -> AccessError:
    url = error.response.request.url
    place = f"{url.scheme}://{url.netloc.decode()}"
    page = f"{place}/{error.repo_id}" if error.repo_id else "the model's page"
    return AccessError(
        f"Could not {what}: it is gated, and this token has not been granted access.",
        advice=f"Accept the conditions at {page} and set HF_TOKEN to a token of that account.",
        code="gated",
    )


def _no_revision(error: HfHubHTTPError, what: str) -> InputError:
    return InputError(
        f"Could not {what}: the repository has no such revision.",
        advice="Check the branch, tag or commit after the @.",
        code="revision-not-found",
    )


def _no_entry(error: Exception, what: str) -> InputError:
    return InputError(
        f"Could not {what}: the repository does not have that file at that revision.",
        advice="Look at the repository's files; a subfolder is given after a colon, owner/name:subfolder.",
        code="file-not-found",
    )


def _not_cached(error: LocalEntryNotFoundError, what: str) -> MergeBotError | None:
    cause = error.__cause__  # the client hides what the network said behind "not in the cache"
    return of(cause, what=what) if isinstance(cause, Exception) else _unreachable(error, what)


def _disabled(error: DisabledRepoError, what: str) -> AccessError:
    return AccessError(
        f"Could not {what}: the Hub has disabled the repository.",
        advice="Choose another repository; its page says why it was disabled.",
        code="disabled",
    )


def _status(error: HfHubHTTPError, what: str) -> MergeBotError:
    status = error.response.status_code
    if status in TRANSIENT or status >= 500:
        return _busy(error, what)
    if status == 412:
        return HostError(
            f"Could not {what}: the repository changed in the meantime.",
            advice="Run the same command again: it starts from the repository's new state.",
            code="changed-meanwhile",
        )
    if status == 409:
        return HostError(
            f"Could not {what}: the Hub reports a conflict{_said(error)}.",
            advice="Run the same command again; if it stays, this token may not see a repository of that name.",
            code="conflict",
        )
    if status in {401, 403}:
        return _unauthorized(error, what) if status == 401 else _forbidden(error, what)
    return HostError(
        f"Could not {what}: the Hub declined with status {status}{_said(error)}.",
        advice="Read what the Hub says; if it makes no sense, open an issue with this sentence.",
        code="hub-declined",
    )


def _busy(error: HfHubHTTPError, what: str) -> HostError:
    status, wait = error.response.status_code, asked_wait(error.response)
    if status == 429:
        when = f" in {wait:.0f} seconds" if wait else " later"
        return HostError(
            f"Could not {what}: the Hub's rate limit is reached.",
            advice=f"Try again{when}; with a token (HF_TOKEN) the limit is higher.",
            code="rate-limit",
            wait=wait,
        )
    return HostError(
        f"Could not {what}: the Hub answered with status {status}.", advice=LATER, code="hub-down", wait=wait
    )


def _forbidden(error: HfHubHTTPError, what: str) -> AccessError:
    return AccessError(
        f"Could not {what}: the token is not allowed to{_said(error)}.",
        advice="Set HF_TOKEN to a token with write permission on that repository (or the namespace, to create one).",
        code="forbidden",
    )


def _xet_denied(error: PermissionError, what: str) -> AccessError | MergeError | None:
    if type(error).__module__ != "hf_xet":
        return _disk(error, what)
    return AccessError(
        f"Could not {what}: the token is not allowed to write the repository's files.",
        advice="Set HF_TOKEN to a token with write permission on that repository.",
        code="forbidden",
    )


def _said(error: HfHubHTTPError) -> str:
    return f" ({redacted(error.server_message).rstrip('.')})" if error.server_message else ""


def _offline(error: Exception, what: str) -> HostError:
    return HostError(
        f"Could not {what}: the Hub's client is in offline mode.",
        advice="Unset HF_HUB_OFFLINE, or give local folders.",
        code="offline",
    )


def _timeout(error: Exception, what: str) -> HostError:
    return HostError(f"Could not {what}: the Hub did not answer in time.", advice=LATER, code="hub-timeout")


def _unreachable(error: Exception, what: str) -> HostError:
    return HostError(
        f"Could not {what}: the Hub cannot be reached.",
        advice="Check the network, the proxy and HF_ENDPOINT, then try again.",
        code="hub-unreachable",
    )


def _gibberish(error: Exception, what: str) -> HostError:
    return HostError(f"Could not {what}: the Hub's answer cannot be read.", advice=LATER, code="hub-down")


def _bad_name(error: Exception, what: str) -> InputError:
    return InputError(
        f"Could not {what}: the Hub does not allow such a name ({redacted(str(error)).rstrip('.')}).",
        advice="Repositories are named owner/name: letters, digits, '-', '_' and '.', at most 96 characters.",
        code="bad-name",
    )


def _disk(error: OSError, what: str) -> MergeError | None:
    if error.errno in CLOSED and error.filename:
        return MergeError(
            f"Could not {what}: {error.filename} is out of reach ({os.strerror(error.errno).lower()}).",
            advice="Point HF_HOME to a folder that this user may write to.",
            code="cache-denied",
        )
    if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return None
    return MergeError(
        f"Could not {what}: the disk is full.",
        advice="Free some space, or point HF_HOME and MERGE_BOT_SCRATCH to a larger disk.",
        code="disk-full",
    )


# In this order: several of the client's errors are subclasses of others, and all HTTP ones are OSErrors.
BY_TYPE: tuple[
    tuple[type[Exception] | tuple[type[Exception], ...], Callable[..., MergeBotError | None]], ...
] = (
    (GatedRepoError, _gated),
    (DisabledRepoError, _disabled),
    (RepositoryNotFoundError, _no_repository),
    (RevisionNotFoundError, _no_revision),
    (LocalEntryNotFoundError, _not_cached),
    (EntryNotFoundError, _no_entry),
    (HfHubHTTPError, _status),
    (OfflineModeIsEnabled, _offline),
    (LocalTokenNotFoundError, lambda error, what: _bad_token(what)),
    ((httpx2.TimeoutException, TimeoutError), _timeout),
    ((httpx2.HTTPError, httpx2.InvalidURL, ConnectionError), _unreachable),
    ((RevisionResolutionError, XetDownloadError), _unreachable),
    (HFValidationError, _bad_name),
    (json.JSONDecodeError, _gibberish),
    (PermissionError, _xet_denied),
    (OSError, _disk),
)
