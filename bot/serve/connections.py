"""Connections that take too long or are too many: what uvicorn leaves open to a slow or greedy stranger."""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from bot.serve.service import Limits


def protocol(limits: Limits) -> type[H11Protocol]:
    """What uvicorn speaks HTTP with, within these limits; for `Config(http=…)`."""
    return type("Patient", (_Patient,), {"limits": limits})


class _Patient(H11Protocol):
    """A request has `patience` seconds to arrive whole, from the connection or its first byte on."""

    limits: Limits
    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._cut(b"503 Service Unavailable", b"Retry-After: 5\r\n")
        else:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Called for whatever has arrived."""
        super().handle_events()
        state: Any = self.conn.their_state
        begun = state is h11.IDLE and bool(self.conn.trailing_data[0])
        if state is h11.SEND_BODY or begun:
            self._arm()
        else:
            self._disarm()

    def _arm(self) -> None:
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.limits.patience, self._late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        answering = (
            self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        )
        if answering:
            self.transport.close()
        else:
            self._cut(b"408 Request Timeout")

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
