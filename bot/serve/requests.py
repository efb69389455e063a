"""Around every request: an id, one line in the log, a count, and a plain answer where our own code broke."""

from __future__ import annotations

import logging
import re
import time
from itertools import count
from secrets import token_hex

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bot.log import about
from bot.serve.metrics import Metrics

GIVEN = re.compile(rb"[\w.-]{8,64}", re.ASCII)  # an id that a proxy has given already
PROCESS, NUMBER = token_hex(4).encode(), count(1)  # an id needs no secret, and randomness has its price
GONE = 499  # as nginx calls a client that left
QUIET = {"/healthz", "/readyz", "/metrics", "/webhooks/hub", "/webhooks/github"}
log = logging.getLogger("bot.serve")


class Requests:
    """ASGI middleware: `X-Request-ID` on answers and log lines, no trace in any answer."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        id_ = given if GIVEN.fullmatch(given) else b"%s-%x" % (PROCESS, next(NUMBER))
        status, began = 0, time.monotonic()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", id_)]
            await send(message)

        with about(request=id_.decode()):
            try:
                await self.app(scope, receive, answer)
            except ClientDisconnect:
                status = GONE
            except Exception:
                log.exception("a request met a fault of our own")
                if status:
                    raise  # half an answer is out: the server cuts the connection
                await _broken(scope, receive, answer)
            finally:
                self._tell(scope, status=status, seconds=time.monotonic() - began)

    def _tell(self, scope: Scope, *, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # never the path itself: strangers make those up
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        quiet = route in QUIET and status < 300  # a delivery that is stored has a line of its own
        facts = {
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1000, 1),
        }
        log.log(logging.DEBUG if quiet else logging.INFO, "answered", extra={"facts": facts})


async def _broken(scope: Scope, receive: Receive, send: Send) -> None:
    told = {
        "code": "internal",
        "sentence": "The bot met a fault of its own.",
        "advice": "Tell whoever runs it the X-Request-ID of this answer: the log has more.",
    }
    await JSONResponse({"error": told}, status_code=500)(scope, receive, send)
