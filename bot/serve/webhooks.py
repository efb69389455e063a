"""`POST /webhooks/hub` and `/webhooks/github`: checked, sifted by the pure triggers, stored, and answered at once.

What a delivery asks for is done later, by whoever takes it out of the inbox.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from bot.errors import MergeBotError
from bot.jobs.inbox import Delivery
from bot.log import about
from bot.serve.body import Bodies, refusal
from bot.serve.service import Service
from bot.trigger import github, hub

EVENT = re.compile(r"[a-z_]{1,64}")
ID = re.compile(r"[\w-]{1,100}", re.ASCII)
log = logging.getLogger("bot.serve")


def router(service: Service) -> APIRouter:
    """The two endpoints."""
    made = APIRouter(prefix="/webhooks")
    of_hubs, of_githubs = Bodies(service.limits), Bodies(service.limits)  # GitHub's come unproved

    @made.post("/hub")
    async def of_hub(request: Request) -> JSONResponse:
        """Whoever knows the secret is the Hub: https://huggingface.co/docs/hub/webhooks."""
        _open(service.hub_secret, "the Hub", "hub")
        _same(request, "x-webhook-secret", service.hub_secret.encode())
        async with of_hubs.read(request) as body:
            event = hub.event(_json(body))
            asked = hub.intent(event)
            if isinstance(asked, hub.Ignored):
                return _ignored(service, "hub", asked.reason)
            name = f"{event.scope}.{event.action}"
            return await _stored(
                service, Delivery(key=hub.delivery_key(event), source="hub", event=name, body=body)
            )

    @made.post("/github")
    async def of_github(request: Request) -> JSONResponse:
        """https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries."""
        _open(service.github_secret, "GitHub", "github")
        async with of_githubs.read(request) as body:
            digest = hmac.new(service.github_secret.encode(), body, hashlib.sha256).hexdigest()
            _same(request, "x-hub-signature-256", f"sha256={digest}".encode())
            name, delivery = _named(request)
            with about(delivery=delivery):
                if name == "ping":
                    return _ignored(service, "github", "GitHub asks whether somebody is here")
                reason = _needless(github.event(name, _json(body)))
                if reason:
                    return _ignored(service, "github", reason)
                return await _stored(
                    service, Delivery(key=_key(name, body), source="github", event=name, body=body)
                )

    @made.get("/hub")
    @made.get("/github")
    async def looked_at() -> JSONResponse:
        """Somebody tries the address in a browser."""
        raise refusal(
            405, "post-only", "Webhooks come here, as POST.", "`merge-bot webhook test` tries the Hub's."
        )

    return made


async def _stored(service: Service, delivery: Delivery) -> JSONResponse:
    with about(delivery=delivery.key):
        try:
            await service.put((delivery,))
        except MergeBotError as error:  # the database's: the sender can only send again
            log.warning("a delivery is not stored: %s %s", error.sentence, error.advice)
            service.metrics.deliveries.labels(delivery.source, "lost").inc()
            service.missed()
            raise refusal(503, error.code, "The delivery could not be stored.", "Send it again.") from error
        service.metrics.deliveries.labels(delivery.source, "stored").inc()
        facts = {"source": delivery.source, "event": delivery.event}
        log.info("a delivery is stored", extra={"facts": facts})
    return JSONResponse({"status": "accepted", "delivery": delivery.key}, status_code=202)


def _ignored(service: Service, source: str, reason: str) -> JSONResponse:
    service.metrics.deliveries.labels(source, "ignored").inc()
    log.debug("a delivery asks for nothing: %s", reason)
    return JSONResponse({"status": "ignored", "reason": reason})


def _open(secret: str, who: str, table: str) -> None:
    if not secret:
        raise refusal(
            503,
            "webhook-closed",
            f"This bot has no secret for webhooks of {who}, so it takes none.",
            f"Set webhook_secret in [{table}] to the secret that the webhook was given.",
        )


def _same(request: Request, header: str, wanted: bytes) -> None:
    given = request.headers.get(header, "").encode("latin-1")  # as the bytes came
    if not hmac.compare_digest(given, wanted):
        raise refusal(
            401,
            "bad-signature" if "signature" in header else "bad-secret",
            f"{header} does not prove who sent this.",
            "Give the webhook and the bot the same secret.",
        )


def _named(request: Request) -> tuple[str, str]:
    """Event and delivery of a request of GitHub's."""
    name = request.headers.get("x-github-event", "")
    delivery = request.headers.get("x-github-delivery", "")
    if not EVENT.fullmatch(name) or not ID.fullmatch(delivery):
        raise refusal(
            400,
            "no-event",
            "X-GitHub-Event and X-GitHub-Delivery do not say what this is.",
            "Let GitHub itself send it, and the proxy between leave its headers as they are.",
        )
    return name, delivery


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise refusal(
            400, "not-json", "The body is no JSON.", "Send it as the webhook's documentation says."
        ) from error


def _needless(event: github.Event) -> str:
    """Why there is nothing to do; empty where there may be."""
    if event.name in github.OWN_JOB:
        return f"{event.name} is for the GitHub Action"
    asked = github.intent(event)
    return asked.reason if isinstance(asked, github.Ignored) else ""


def _key(name: str, body: bytes) -> str:
    """By what is signed: the id in X-GitHub-Delivery is not, so a body sent again under a new one would count twice."""
    return f"github-{hashlib.sha256(name.encode() + b' ' + body).hexdigest()[:40]}"
