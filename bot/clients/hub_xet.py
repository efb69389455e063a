"""Xet, the Hub's storage by chunks, which its client takes wherever it may: what fails there, and LFS otherwise."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, constants, get_session, hf_raise_for_status

from bot.clients.hub_errors import redacted
from bot.errors import HostError

# What hf_xet raises are Python's own errors, just these or its own below them; their text hides what the system said.
RAISED = (RuntimeError, ConnectionError, TimeoutError, FileNotFoundError, OSError)
FULL = (f"(os error {errno.ENOSPC})", f"(os error {errno.EDQUOT})")


@contextmanager
def named(what: str) -> Iterator[None]:
    """Around what may go by Xet; `what` completes "Could not …". Raises HostError for what fails there.

    A full disk comes as the OSError that the system knows, and what the Hub's client hides in a RuntimeError as itself.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # an upload by LFS
            raise error.__cause__ from None
        if _is_of_xet(error):
            if any(number in str(error) for number in FULL):
                raise OSError(errno.ENOSPC, "the disk is full") from error
            raise _failed(str(error), what) from error
        raise


def or_lfs(send: Callable[[], None], *, api: HfApi, repo_id: str, pr: bool) -> None:
    """Has the client upload by Xet, and by LFS from now on where the Hub has no Xet: the client does not look.

    Raises what `send` raises; what the Hub says when it denies access to its Xet storage, comes as HfHubHTTPError.
    """
    try:
        send()
    except ConnectionError as error:
        if (
            type(error) is not ConnectionError
            or constants.HF_HUB_DISABLE_XET
            or _offered(api, repo_id, pr=pr)
        ):
            raise
        # What the variable of that name does: the client looks here at every request, and this process has one Hub.
        constants.HF_HUB_DISABLE_XET = True
        send()


def _offered(api: HfApi, repo_id: str, *, pr: bool) -> bool:
    """Whether the Hub says where to upload to: asked again, since hf_xet tells only that it was not told."""
    url = f"{api.endpoint}/api/models/{repo_id}/xet-write-token/main{'?create_pr=1' if pr else ''}"
    reply = get_session().get(url, headers=api._build_hf_headers())  # noqa: SLF001
    if reply.status_code == 404 and "X-Error-Code" not in reply.headers:
        return False
    hf_raise_for_status(reply)
    return True


def _is_of_xet(error: Exception) -> bool:
    """A denial aside, for which there is a sentence already."""
    if type(error).__module__ == "hf_xet":
        return not isinstance(error, PermissionError)
    return type(error) in RAISED and getattr(error, "errno", None) is None


def _failed(text: str, what: str) -> HostError:
    return HostError(
        f"Could not {what}: the Hub's Xet storage failed ({redacted(text).rstrip('.')}).",
        advice="Try again: what was uploaded is not uploaded twice. HF_HUB_DISABLE_XET=1 takes the older way, LFS.",
        code="xet-failed",
    )
