"""The HTTP application: webhooks, health, and the pages that it is given. It keeps no state beside its `Service`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from bot.errors import AccessError, HostError, InputError, MergeBotError, RefusedError
from bot.serve import health, webhooks
from bot.serve.forms import Forms
from bot.serve.prefix import Prefix
from bot.serve.requests import Requests
from bot.serve.service import Service

STATUS: dict[type[MergeBotError], int] = {
    InputError: 400,
    AccessError: 403,
    RefusedError: 409,
    HostError: 503,
}


def app(service: Service) -> FastAPI:
    """The application of this service."""
    made = _bare(service)
    for router in (health.router(service), webhooks.router(service), *service.routers):
        made.include_router(router)
    if service.path:
        made.add_middleware(Prefix, path=service.path)  # the last one added is the first one asked
    return made


def inner(service: Service) -> FastAPI:
    """Health and metrics alone, without a token: for a port that strangers do not reach."""
    made = _bare(service)
    made.include_router(health.router(service, guarded=False))
    return made


def _bare(service: Service) -> FastAPI:
    made = FastAPI(title="merge-bot", docs_url=None, redoc_url=None, openapi_url=None)
    made.add_middleware(Forms)
    made.add_middleware(Requests, metrics=service.metrics)
    made.add_exception_handler(HTTPException, _refused)  # type: ignore[arg-type] # the handler is only called with these
    made.add_exception_handler(RequestValidationError, _misread)  # type: ignore[arg-type]
    made.add_exception_handler(MergeBotError, _stopped)  # type: ignore[arg-type]
    return made


async def _refused(_: Request, error: HTTPException) -> JSONResponse:
    detail: Any = error.detail  # ours are dicts
    told = detail if isinstance(detail, dict) else {"code": "http", "sentence": f"{detail}."}
    return JSONResponse({"error": told}, status_code=error.status_code, headers=error.headers)


async def _misread(_: Request, error: RequestValidationError) -> JSONResponse:
    where = ", ".join(".".join(str(part) for part in one["loc"][1:]) for one in error.errors())
    told = {"code": "bad-request", "sentence": f"The request cannot be read: {where}."}
    return JSONResponse({"error": told}, status_code=422)


async def _stopped(_: Request, error: MergeBotError) -> JSONResponse:
    told = {"code": error.code, "sentence": error.sentence, "advice": error.advice}
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse({"error": told}, status_code=status, headers=headers)
