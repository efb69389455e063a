"""How much of a request the pages read: forms are small, and strangers' bytes are held before we know who it is."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST = 64 * 1024  # bytes: the longest form, with every field filled in, is a fraction of that
OWN_BOUNDS = "/webhooks/"  # `bot.serve.body` bounds what these read


class Forms:
    """ASGI middleware. Whoever reads more than that gets an HTTPException 413, and answers with a page or JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"].startswith(OWN_BOUNDS):
            await self.app(scope, receive, send)
            return
        size = 0

        async def read() -> Message:
            nonlocal size
            _check(_said(scope))
            message = await receive()
            size += len(message.get("body", b""))
            _check(size)
            return message

        await self.app(scope, read, send)


def _said(scope: Scope) -> int:
    """What the head says of the body's length."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length[:20]) if length.isdigit() else 0


def _check(size: int) -> None:
    if size > MOST:
        raise HTTPException(413, f"What was sent is larger than {MOST // 1024} KiB. No form here is.")
