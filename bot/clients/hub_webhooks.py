"""The webhooks of the token's user on the Hub: listed, registered, deleted; and a payload sent as the Hub sends it.

https://huggingface.co/docs/hub/webhooks
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from huggingface_hub import HfApi, WebhookInfo, WebhookWatchedItem
from huggingface_hub.errors import HfHubHTTPError

from bot.clients.http import retrying
from bot.clients.hub_errors import redacted, translated
from bot.errors import HostError, InputError

DOMAINS: list[Any] = ["repo", "discussion"]
LONGEST = 100_000  # bytes of an answer that are read


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a webhook is told of: `kind` is `user`, `org` or `model`, as which it tells of one repository."""

    kind: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """One of them. `signed`: it sends a secret, which nobody here keeps."""

    id: str
    url: str
    watched: tuple[Watched, ...]
    signed: bool
    disabled: bool


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an address answered to a payload: the text is on one line, cut short, and holds no secret."""

    status: int
    seconds: float
    text: str


class HubWebhooks:
    """Raises AccessError or HostError; InputError for an id that is none."""

    def __init__(self, endpoint: str, *, token: str, attempts: int) -> None:
        self._api = HfApi(endpoint=endpoint, token=token)
        self._attempts = attempts

    def list(self) -> tuple[Webhook, ...]:
        """Those that post to an address; others start jobs on the Hub, and are none of ours."""
        with translated("list the webhooks"):
            found = retrying(self._api.list_webhooks, attempts=self._attempts)
        return tuple(_read(one) for one in found if one.url)

    def create(self, url: str, *, watched: tuple[Watched, ...], secret: str) -> tuple[Webhook, bool]:
        """The webhook of this address, and whether it was there before: then it is changed, and watches these alone.

        It is sent once; where its answer is lost, the webhook is looked for.
        """
        items: list[Any] = [WebhookWatchedItem(type=one.kind, name=one.name) for one in watched]  # type: ignore[arg-type]
        there = self._at(url)
        with translated(f"register a webhook for {url}"):
            if there is None:
                try:
                    made = self._api.create_webhook(url=url, watched=items, domains=DOMAINS, secret=secret)
                except (HfHubHTTPError, httpx2.TransportError):
                    if (found := self._at(url)) is None:
                        raise
                    return found, False
                return _read(made), False
            # always with `watched`: without, the client empties the list
            done = self._api.update_webhook(there.id, url=url, watched=items, domains=DOMAINS, secret=secret)
            return _read(self._api.enable_webhook(done.id) if done.disabled else done), True

    def delete(self, id_: str) -> None:
        """Raises InputError where there is none of that id."""
        with translated(f"delete the webhook {id_}"):
            try:
                self._api.delete_webhook(id_)
            except HfHubHTTPError as error:
                if error.response.status_code != 404:
                    raise
                raise InputError(
                    f"There is no webhook {id_!r}.",
                    advice="`merge-bot webhook list` shows the ids.",
                    code="no-webhook",
                ) from error

    def kind(self, name: str) -> str:
        """Whether a name is a `user` or an `org`."""
        with translated(f"see who {name} is"):
            try:
                retrying(lambda: self._api.get_user_overview(name), attempts=self._attempts)
            except HfHubHTTPError as error:
                if error.response.status_code != 404:
                    raise
                return "org"
        return "user"

    def _at(self, url: str) -> Webhook | None:
        return next((one for one in self.list() if one.url == url), None)


def send(url: str, payload: Mapping[str, Any], *, secret: str, timeout: float) -> Reply:
    """Posts a payload as the Hub does, once, and follows no redirect. Raises HostError where nobody answers."""
    headers = {"Content-Type": "application/json", "X-Webhook-Secret": secret}
    started = time.monotonic()
    try:
        with (
            httpx2.Client(timeout=timeout) as client,
            client.stream("POST", url, content=json.dumps(payload).encode(), headers=headers) as reply,
        ):
            body = next(reply.iter_bytes(LONGEST), b"")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise HostError(
            f"{url} does not answer ({type(error).__name__}).",
            advice="Start `merge-bot serve`, and see that the address leads to it from outside.",
            code="webhook-unreachable",
        ) from error
    text = body.decode("utf-8", "replace")
    text = text.replace(secret, "…") if secret else text
    return Reply(status=reply.status_code, seconds=time.monotonic() - started, text=redacted(text))


def _read(found: WebhookInfo) -> Webhook:
    return Webhook(
        id=found.id,
        url=found.url or "",
        watched=tuple(Watched(kind=item.type, name=item.name) for item in found.watched),
        signed=bool(found.secret),
        disabled=found.disabled,
    )
