"""Bodies of requests, read within bounds: one, and all that are held at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import HTTPException
from starlette.requests import Request

from bot.serve.service import Limits


class Bodies:
    """Counts what the requests of one door hold together: a stranger's bytes are held before we know who it is.

    No address has more than a share of it, so that one cannot shut the door for the others.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held = limits, 0
        self._by: Counter[str] = Counter()  # held, by address

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, counted for as long as the caller works on it. Raises HTTPException 408, 413, 415 or 503."""
        _check(request, most=self.limits.body)
        who = request.client.host if request.client else ""
        parts: list[bytes] = []
        try:
            await self._whole(request, parts, who=who)
            yield b"".join(parts)
        finally:
            self._give(who, sum(map(len, parts)))

    async def _whole(self, request: Request, parts: list[bytes], *, who: str) -> None:
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_patience):
                async for part in request.stream():
                    parts.append(part)
                    size += len(part)
                    self._take(who, len(part))
                    if size > self.limits.body:
                        raise _too_large(self.limits.body)
        except TimeoutError:
            raise refusal(
                408, "too-slow", "The body takes too long to arrive.", "Send it in one go."
            ) from None

    def _take(self, who: str, size: int) -> None:
        self.held += size
        self._by[who] += size
        if self.held > self.limits.bodies or self._by[who] > self.limits.share:
            raise refusal(503, "busy", "Too much arrives at once.", "Send it again in a few seconds.")

    def _give(self, who: str, size: int) -> None:
        self.held -= size
        self._by[who] -= size
        if not self._by[who]:
            del self._by[who]


def refusal(status: int, code: str, sentence: str, advice: str) -> HTTPException:
    """What the application answers with; with 503 it says when to come again, and with 408 that it hangs up."""
    headers = {503: {"Retry-After": "5"}, 408: {"Connection": "close"}, 405: {"Allow": "POST"}}.get(status)
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
