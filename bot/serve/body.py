"""Bodies of requests, read within bounds: one, and all that are held at the same time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException
from starlette.requests import Request

from bot.serve.service import Limits


class Bodies:
    """Counts what all requests hold together: a stranger's bytes are held before we know who it is."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held = limits, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, counted for as long as the caller works on it. Raises HTTPException 413, 415 or 503."""
        _check(request, most=self.limits.body)
        parts: list[bytes] = []
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                self.held += len(part)
                if size > self.limits.body:
                    raise _too_large(self.limits.body)
                if self.held > self.limits.bodies:
                    raise refusal(503, "busy", "Too much arrives at once.", "Send it again in a few seconds.")
                parts.append(part)
            yield b"".join(parts)
        finally:
            self.held -= size


def refusal(status: int, code: str, sentence: str, advice: str) -> HTTPException:
    """What the application answers with; with 503 it says when to come again."""
    headers = {"Retry-After": "5"} if status == 503 else None
    told = {"code": code, "sentence": sentence, "advice": advice}
    return HTTPException(status, detail=told, headers=headers)


def _check(request: Request, *, most: int) -> None:
    """Refuses by the head alone what the body cannot make good."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding", "identity") != "identity":
        raise refusal(
            415,
            "not-json",
            "Webhooks are taken as plain application/json only.",
            "Choose application/json as the webhook's content type.",
        )
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise _too_large(most)


def _too_large(most: int) -> HTTPException:
    return refusal(
        413,
        "body-too-large",
        f"The body is larger than {most} bytes.",
        "Send what the webhook is documented to send.",
    )
