"""One HTTP exchange without sockets: the call that a route receives and the reply that it returns."""

import html
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs, unquote

from .accounts import Account
from .errors import HubError
from .records import Repo

if TYPE_CHECKING:
    from .state import State

JSON_LIMIT = 64 << 20


class Body(io.RawIOBase):
    """The request's body, whether it comes with a length or in chunks; ends where the body ends."""

    def __init__(self, source: BinaryIO, headers: Mapping[str, str]) -> None:
        self._source = source
        self._chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self._left = 0 if self._chunked else int(headers.get("Content-Length") or 0)
        self.done = not self._chunked and self._left == 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._chunked and self._left == 0 and not self.done:
            self._next_chunk()
        if self.done:
            return 0
        view = memoryview(buffer)[: self._left]
        count: int = self._source.readinto1(view)  # type: ignore[attr-defined]
        if count == 0:
            raise ConnectionError("the client went away in the middle of a body")
        self._left -= count
        if self._left == 0:
            self._end_of_piece()
        return count

    def _next_chunk(self) -> None:
        self._left = int(self._source.readline(100).split(b";")[0], 16)
        if self._left == 0:
            while self._source.readline(1000).strip():
                pass
            self.done = True

    def _end_of_piece(self) -> None:
        if self._chunked:
            self._source.readline(10)
        else:
            self.done = True


@dataclass
class Call:
    """A request: the raw path (still quoted), the query, who asks, and the repository that the path names."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    stream: BinaryIO
    state: "State"
    account: Account | None = None
    found: Repo | None = None
    raw_query: str = ""

    @property
    def repo(self) -> Repo:
        assert self.found is not None, "only routes below a repository ask for it"
        return self.found

    def param(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        return self.param(name).lower() in ("1", "true")

    def number(self, name: str, default: int) -> int:
        text = self.param(name)
        return int(text) if text.isdecimal() else default

    def _text(self) -> bytes:
        content = self.stream.read(JSON_LIMIT + 1)
        if len(content) > JSON_LIMIT:
            raise HubError(413, "Payload too large")
        return content

    def json(self) -> dict[str, Any]:
        """The JSON object of the body; an empty body reads as {}."""
        try:
            value = json.loads(self._text() or b"{}")
        except ValueError as error:
            raise HubError(400, f"Body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise HubError(400, "Body is not a JSON object")
        return value

    def form(self) -> dict[str, list[str]]:
        """A form body, or the same fields as JSON (the Hub takes both)."""
        if "json" in self.headers.get("Content-Type", ""):
            items = self.json().items()
            return {
                key: [str(v) for v in value] if isinstance(value, list) else [str(value)]
                for key, value in items
            }
        return parse_qs(self._text().decode())


@dataclass(frozen=True)
class FileRange:
    """A slice of a file on disk, sent piece by piece."""

    path: Path
    start: int
    length: int

    def pieces(self, size: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.length
            while left > 0 and (piece := file.read(min(size, left))):
                left -= len(piece)
                yield piece


@dataclass(frozen=True)
class Stream:
    """What comes as it happens; its end is that of the connection."""

    events: Iterator[bytes]
    length: int = sys.maxsize  # as far as anybody knows

    def pieces(self, size: int) -> Iterator[bytes]:
        del size
        yield from self.events


@dataclass
class Reply:
    """A response; a HEAD request gets the same headers without the body."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | FileRange | Stream = b""

    @property
    def length(self) -> int:
        return len(self.body) if isinstance(self.body, bytes) else self.body.length

    def pieces(self, size: int) -> Iterator[bytes]:
        if not isinstance(self.body, bytes):
            yield from self.body.pieces(size)
        else:
            yield from (self.body[at : at + size] for at in range(0, len(self.body), size))


# Methods joined by "|", a path pattern, and what answers.
Endpoint = tuple[str, str, Callable[..., Reply]]


def as_json(value: Any, status: int = 200, **headers: str) -> Reply:
    all_headers = {"Content-Type": "application/json; charset=utf-8"}
    all_headers.update({name.replace("_", "-"): text for name, text in headers.items()})
    return Reply(status, all_headers, json.dumps(value).encode())


def as_error(error: HubError) -> Reply:
    reply = as_json({"error": error.message}, error.status)
    reply.headers.update(error.headers)
    reply.headers["X-Error-Message"] = re.sub(r"[^\x20-\x7e]+", " ", error.message)
    if error.code:
        reply.headers["X-Error-Code"] = error.code
    return reply


def as_page(title: str, *parts: str) -> Reply:
    """A small HTML page; `parts` must be escaped already."""
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "default-src 'none'; " + CSS,
    }
    return Reply(200, headers, (head + f"<h1>{html.escape(title)}</h1>" + "".join(parts)).encode())


CSS = "style-src 'unsafe-inline'"
STYLE = "body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}pre{white-space:pre-wrap}"


def with_range(reply: Reply, requested: str | None) -> Reply:
    """Cut a file reply down to the one range that was asked for (RFC 9110, section 14)."""
    reply.headers["Accept-Ranges"] = "bytes"
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (requested or "").strip())
    if not match or not any(match.groups()) or not isinstance(reply.body, FileRange):
        return reply
    size, (first, last) = reply.body.length, match.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    headers = {**reply.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Reply(206, headers, FileRange(reply.body.path, start, stop - start))


def unquoted(text: str) -> str:
    return unquote(text, errors="replace")
