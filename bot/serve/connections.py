"""Connections that take too long or are too many: what uvicorn leaves open to a slow or greedy stranger."""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any

from httptools import HttpParserError
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bot.serve.service import Limits

# The parser bounds nothing by itself, and holds what it has not handed on.
MOST = 16 * 1024  # bytes of a head, or of what stands between and after the chunks of a body
TOO_LARGE = b"431 Request Header Fields Too Large"
AHEAD = 16  # requests on one connection that wait for the answer to the one before


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """What uvicorn speaks HTTP with, within these limits; for `Config(http=…)`."""
    return type("Patient", (_Patient,), {"limits": limits})


class _Patient(HttpToolsProtocol):
    """A request has `patience` seconds to arrive whole, from the connection or its first byte on."""

    limits: Limits
    _deadline: TimerHandle | None = None
    _arriving = False
    _held = 0  # bytes since the last whole head or piece of a body
    _cycles: tuple[RequestResponseCycle, ...] = ()  # requests that are not answered yet

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._cut(b"503 Service Unavailable", b"Retry-After: 5\r\n")
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called for whatever has arrived."""
        self._held += len(data)
        super().data_received(data)
        if self._held > MOST:
            self._refuse(TOO_LARGE)
        # Where nobody answers, what came was no request, or the rest of one that is answered: uvicorn waits for ever.
        if self._arriving or self.cycle is None or self.cycle.response_complete:
            self._arm()
        else:
            self._disarm()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= AHEAD:
            raise HttpParserError("Too many requests are sent ahead.")  # uvicorn answers and hangs up
        self._arriving = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._held = 0
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST:
            self._refuse(TOO_LARGE)
            raise HttpParserError("The head is too large.")
        switches = self.parser.should_upgrade()
        # We speak nothing else, but the parser takes no body then: what follows would be the next request.
        if switches and any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            raise HttpParserError("A body comes with a change of the protocol.")
        super().on_headers_complete()
        self.cycle.keep_alive = self.cycle.keep_alive and not switches
        self._cycles = (*(one for one in self._cycles if not one.response_complete), self.cycle)

    def on_body(self, body: bytes) -> None:
        self._held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._arriving, self._held = False, 0
        super().on_message_complete()

    def _arm(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.limits.patience, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self._refuse(b"408 Request Timeout")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 # as uvicorn calls it
        """For uvicorn, which would write it into an answer that has begun."""
        self._refuse(b"400 Bad Request")

    def _refuse(self, status: bytes) -> None:
        if any(one.response_started and not one.response_complete for one in self._cycles):
            self.transport.close()
        elif not self.transport.is_closing():
            self._cut(status)

    def _cut(self, status: bytes, headers: bytes = b"") -> None:
        """An answer without the application: it may wait for the very bytes that do not come."""
        head = b"HTTP/1.1 " + status + b"\r\n" + headers
        self.transport.write(head + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()


def config(app: Any, limits: Limits) -> Config:
    """How uvicorn serves this application: no banner, no log of its own, no sockets for the web."""
    return Config(
        app,
        http=protocol(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(limits.idle),
        proxy_headers=False,
    )
