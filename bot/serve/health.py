"""`/healthz`: the process is alive. `/readyz`: it can work. `/metrics`: for Prometheus."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

from bot import __version__
from bot.errors import MergeBotError
from bot.serve.body import refusal
from bot.serve.metrics import TYPE
from bot.serve.service import Check, Service

T = TypeVar("T")
PATIENCE = 3.0  # seconds that a check may take
FRESH = 1.0  # seconds that an answer is given again, so that nobody can keep the database busy by asking
log = logging.getLogger("bot.serve")


def router(service: Service, *, guarded: bool = True) -> APIRouter:
    """The three, `/metrics` behind the token where it is guarded."""
    made = APIRouter()
    ready = _Shared(lambda: _asked(service))
    page = _Shared(lambda: asyncio.to_thread(_page, service))

    @made.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "alive", "version": __version__})

    @made.get("/readyz")
    async def readyz() -> JSONResponse:
        troubles = {"drain": "The service is about to stop."} if service.drain.begun else await ready.get()
        if not troubles:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "troubles": troubles}, status_code=503)

    @made.get("/metrics")
    async def scraped(request: Request) -> Response:
        if guarded:
            _may_scrape(request, service.metrics_token)
        return Response(await page.get(), media_type=TYPE)

    return made


class _Shared(Generic[T]):
    """What many ask for at once is found out once."""

    def __init__(self, find: Callable[[], Awaitable[T]]) -> None:
        self._find = find
        self._finding: asyncio.Future[T] | None = None
        self._until = 0.0

    async def get(self) -> T:
        going = self._finding is not None and (not self._finding.done() or time.monotonic() < self._until)
        if self._finding is None or not going:
            self._finding = asyncio.ensure_future(self._find())
            self._finding.add_done_callback(self._found)
        return await asyncio.shield(self._finding)

    def _found(self, _: asyncio.Future[T]) -> None:
        self._until = time.monotonic() + FRESH


async def _asked(service: Service) -> dict[str, str]:
    """What is wrong, by the name of the check."""
    told = await asyncio.gather(*(_one(check) for check in service.checks.values()))
    return {name: trouble for name, trouble in zip(service.checks, told, strict=True) if trouble}


async def _one(check: Check) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.to_thread(check)
    except TimeoutError:
        return f"No answer within {PATIENCE:.0f} seconds."
    except MergeBotError as error:
        return error.sentence


def _page(service: Service) -> bytes:
    """A database that is gone is a figure too."""
    try:
        stored = tuple(service.collect())
    except MergeBotError as error:
        log.warning("metrics without the database: %s", error.sentence)
        return service.metrics.page(database_up=False)
    return service.metrics.page(stored, database_up=True)


def _may_scrape(request: Request, token: str) -> None:
    given = request.headers.get("authorization", "").encode("latin-1")
    if not token or not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise refusal(
            401,
            "no-metrics-token",
            "Metrics are for who knows their token.",
            "Set metrics_token in [server] and send it as a bearer token, or ask at the port of --health-port.",
        )
