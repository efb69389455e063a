"""Posts a document to a webhook of somebody else's."""

from __future__ import annotations

from typing import Any

import httpx2

from bot.errors import HostError


def post(url: str, document: dict[str, Any], *, timeout: float) -> None:
    """Sends it once; redirects are not followed. Raises HostError, which does not name the URL: that is a secret."""
    try:
        answer = httpx2.post(url, json=document, timeout=timeout, follow_redirects=False)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _deaf(f"gave no answer ({type(error).__name__})") from None
    if not answer.is_success:
        raise _deaf(f"answered {answer.status_code}")


def _deaf(what: str) -> HostError:
    return HostError(
        f"A webhook of [[notify]] {what}.",
        advice="Look at its `url` in merge-bot.toml.",
        code="notify-failed",
    )
