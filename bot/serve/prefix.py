"""The path below which a proxy shows the service, taken off requests: what lies behind knows none of it."""

from __future__ import annotations

from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send


class Prefix:
    """ASGI middleware. A request whose path comes without it, since the proxy has taken it off, is as good."""

    def __init__(self, app: ASGIApp, *, path: str) -> None:
        self.app, self._path = app, unquote(path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self._path}/"):
            scope = {**scope, "path": scope["path"][len(self._path) :] or "/"}
        await self.app(scope, receive, send)
