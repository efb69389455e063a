"""Sockets to exchanges and back: reads a request, applies the faults, sends the reply and records what happened."""

import contextlib
import io
import socket
import sys
import traceback
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from .errors import HubError
from .exchange import Body, Call, Reply, Stream, as_error, unquoted
from .faults import Faults
from .router import answer
from .state import State

PIECE = 1 << 18
DRAIN_LIMIT = 64 << 20


@dataclass(frozen=True)
class Record:
    """One request as it was served. `path` is unquoted; status 0 means that it got no answer at all."""

    method: str
    path: str
    query: str
    range: str | None
    user: str | None
    status: int
    bytes_sent: int


class Journal:
    """All records so far; reading waits a moment for requests that are still being served."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._busy = 0
        self._idle = Condition()

    def begin(self) -> None:
        with self._idle:
            self._busy += 1

    def end(self, record: Record | None) -> None:
        with self._idle:
            self._busy -= 1
            self._records += [record] if record else []
            self._idle.notify_all()

    def read(self, patience: float = 1.0) -> tuple[Record, ...]:
        with self._idle:
            self._idle.wait_for(lambda: self._busy == 0, timeout=patience)
            return tuple(self._records)

    def clear(self) -> None:
        with self._idle:
            self._records.clear()


class HubServer(ThreadingHTTPServer):
    """A listener on 127.0.0.1; the hub has two, its own and the storage's."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, *, state: State, faults: Faults, journal: Journal, verbose: bool) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state, self.faults, self.journal, self.verbose = state, faults, journal, verbose
        self.connections: set[socket.socket] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def server_bind(self) -> None:
        """Without HTTPServer's reverse look-up of the own name, which can take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the game."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError | ValueError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HubServer

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def serve(self) -> None:
        journal, target = self.server.journal, urlsplit(self.path)
        user, status, sent = None, 0, 0
        waiting = self.server.faults.hang(self.command, self.path)
        journal.begin()
        try:
            if not waiting:
                body = Body(self.rfile, self.headers)  # type: ignore[arg-type]
                stream = io.BufferedReader(body, PIECE)
                reply, user = self._reply(stream, target.path, target.query)
                status = reply.status
                self._drain(body)
                sent = self._send(reply)
        finally:
            path = unquoted(target.path)
            requested = self.headers.get("Range")
            journal.end(Record(self.command, path, target.query, requested, user, status, sent))
        if waiting:
            self.server.faults.closing.wait(waiting)
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815 (http.server asks for these)

    def _reply(self, stream: BinaryIO, path: str, query: str) -> tuple[Reply, str | None]:
        fault = self.server.faults.error(self.command, self.path)
        if fault and fault.status:
            error = as_error(HubError(fault.status, "Fault injected by the test"))
            error.headers.update(fault.headers)
            return error, None
        fields = parse_qs(query, keep_blank_values=True)
        call = Call(self.command, path, fields, self.headers, stream, self.server.state, raw_query=query)  # type: ignore[arg-type]
        try:
            reply = answer(call)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 (a bug in a route must reach the test as a 500)
            traceback.print_exc()
            reply = as_error(HubError(500, "Internal error of the loopback hub, see its stderr"))
        return reply, call.account.name if call.account else None

    def _drain(self, body: Body) -> None:
        """A body that nobody read must not be taken for the next request."""
        left = DRAIN_LIMIT
        while not body.done and left > 0:
            left -= len(body.read(PIECE) or b"")
        self.close_connection = self.close_connection or not body.done

    def _send(self, reply: Reply) -> int:
        """Headers and body; the answer is how many bytes of the body went out."""
        self.send_response(reply.status)
        headers = {"X-Request-Id": f"Root={uuid.uuid4()}"} | reply.headers
        if isinstance(reply.body, Stream):
            self.close_connection = True
        else:
            headers = {"Content-Length": str(reply.length)} | headers
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        return 0 if self.command == "HEAD" else self._send_body(reply)

    def _send_body(self, reply: Reply) -> int:
        faults = self.server.faults
        cut = faults.cut(self.command, self.path, reply.length)
        speed = faults.speed(self.command, self.path, reply.length)
        piece_size = max(1, speed // 20) if speed else PIECE
        sent = 0
        for piece in reply.pieces(piece_size):
            if cut is not None and sent + len(piece) > cut:
                self.wfile.write(piece[: cut - sent])
                self.close_connection = True
                return cut
            self.wfile.write(piece)
            sent += len(piece)
            if speed and faults.closing.wait(len(piece) / speed):
                break
        return sent

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (http.server's signature)
        if self.server.verbose:
            sys.stderr.write(f"{self.log_date_time_string()} {format % args}\n")
