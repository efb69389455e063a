"""Sockets to calls and back, as the loopback Hub does it; besides, GitHub's prefix, rate limits and faults."""

import time
import traceback
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import parse_qs

from tests.hub import handler as hub
from tests.hub.exchange import Reply
from tests.hub.faults import Fault

from .exchange import Call, GitHubError, as_error
from .router import answer

LIMIT = 5000
PREFIX = "/api/v3"  # of a GitHub Enterprise Server; both spellings work here


@dataclass
class Trouble(Fault):
    """A fault with GitHub's sentence for it."""

    message: str = "Server Error"


class Server(hub.HubServer):
    """A listener on 127.0.0.1."""

    def __init__(self, port: int, **parts: Any) -> None:
        super().__init__(port, **parts)
        self.RequestHandlerClass = Handler


class Handler(hub.Handler):
    """One connection."""

    do_PATCH = hub.Handler.serve  # noqa: N815 (http.server asks for it)

    def _reply(self, stream: BinaryIO, path: str, query: str) -> tuple[Reply, str | None]:
        fault = self.server.faults.error(self.command, self.path)
        if fault and fault.status:
            return self._broken(fault), None
        state = self.server.state
        prefix = PREFIX if path.startswith(f"{PREFIX}/") else ""
        base = f"{state.public_url}{prefix}"
        fields = parse_qs(query, keep_blank_values=True)
        call = Call(self.command, path.removeprefix(prefix), fields, self.headers, stream, state, base)  # type: ignore[arg-type]
        if (limited := self._spend()) is not None:
            return limited, None
        try:
            reply = answer(call)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 (a bug in a route must reach the test as a 500)
            traceback.print_exc()
            reply = as_error(GitHubError(500, "Internal error of the fake GitHub, see its stderr"))
        reply.headers.update(self._rate())
        return reply, call.token.login if call.token else None

    def _broken(self, fault: Fault) -> Reply:
        message = fault.message if isinstance(fault, Trouble) else "Server Error"
        reply = as_error(GitHubError(fault.status or 500, message))
        reply.headers.update(fault.headers)
        return reply

    def _spend(self) -> Reply | None:
        """One request less; without any left, what GitHub says until the hour is over."""
        state = self.server.state
        if state.reset <= time.time():
            state.reset, state.requests_left = int(time.time()) + 3600, LIMIT
        if state.requests_left <= 0:
            reply = as_error(GitHubError(403, "API rate limit exceeded for user ID 1."))
            reply.headers.update(self._rate())
            return reply
        state.requests_left -= 1
        return None

    def _rate(self) -> dict[str, str]:
        state = self.server.state
        facts = {"Limit": LIMIT, "Remaining": state.requests_left, "Reset": state.reset, "Resource": "core"}
        facts["Used"] = LIMIT - state.requests_left
        return {f"X-RateLimit-{name}": str(value) for name, value in facts.items()}
