"""What a user or an organisation has on the Hub, newest change first: one page at a time, and none that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
from huggingface_hub import HfApi, get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import parse_ratelimit_headers

from bot.clients.http import asked_wait, retrying
from bot.clients.hub_errors import translated

PAGE = 100  # models; the Hub gives at most 1,000
WANTED = ("sha", "lastModified")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A model repository: the commit of its main branch, and when that changed last."""

    repository: str
    commit: str
    modified: datetime


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some models, and where the next are (empty: these were the last). `unchanged`: what is known by `tag` holds.

    `wait`: seconds until the Hub takes another request, where it says that this one was the last for now.
    """

    models: tuple[Listed, ...] = ()
    following: str = ""
    tag: str = ""
    unchanged: bool = False
    wait: float = 0.0


class HubLister:
    """Lists with the read token: what it may not see is not there."""

    def __init__(self, endpoint: str, *, token: str | None, attempts: int) -> None:
        self._api = HfApi(endpoint=endpoint, token=token or False)
        self._attempts = attempts

    def page(self, owner: str, *, tag: str = "", following: str = "") -> Page:
        """The first page of an owner, or the one that another page has named. `tag` is that of the page as known.

        Raises HostError when the Hub does not answer, or wants us to wait for long (`asked_to_wait` says how long), and
        AccessError for a token that is none.
        """
        query = httpx2.QueryParams(author=owner, sort="lastModified", limit=PAGE)
        for name in WANTED:
            query = query.add("expand", name)
        url = following or f"{self._api.endpoint}/api/models?{query}"
        with translated(f"list the models of {owner}"):
            response = retrying(lambda: self._get(url, tag=tag), attempts=self._attempts)
            if response.status_code == httpx2.codes.NOT_MODIFIED:
                return Page(tag=tag, unchanged=True, wait=_wait(response))
            items = response.json()
        found = [made for item in items if isinstance(item, dict) and (made := _listed(item))]
        return Page(
            models=tuple(found),
            following=self._within(response.links.get("next", {}).get("url", "")),
            tag=response.headers.get("etag", ""),
            wait=_wait(response),
        )

    def _get(self, url: str, *, tag: str) -> httpx2.Response:
        headers = {**self._api._build_hf_headers(), **({"If-None-Match": tag} if tag else {})}  # noqa: SLF001 - the client's own list_models takes no header
        response = get_session().get(url, headers=headers)
        if response.status_code != httpx2.codes.NOT_MODIFIED:
            hf_raise_for_status(response)
        return response

    def _within(self, url: str) -> str:
        """A page of the Hub, and none of another host, which would get our token."""
        return url if url.startswith(f"{self._api.endpoint}/") else ""


def asked_to_wait(error: BaseException) -> float | None:
    """How many seconds the Hub wants us to wait, by the error that an answer of it became."""
    cause = error.__cause__
    return asked_wait(cause.response) if isinstance(cause, HfHubHTTPError) else None


def _listed(item: Mapping[str, Any]) -> Listed | None:
    name, commit, when = (item.get(key) for key in ("id", *WANTED))
    if not (isinstance(name, str) and isinstance(commit, str) and isinstance(when, str)):
        return None
    try:
        modified = datetime.fromisoformat(when)
    except ValueError:
        return None
    return Listed(repository=name, commit=commit, modified=modified.astimezone(UTC))


def _wait(response: httpx2.Response) -> float:
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0
