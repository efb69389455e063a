"""A job as it goes on: one stream of server-sent events for each browser that follows it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
from anyio import to_thread
from fastapi import HTTPException, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

from bot.errors import HostError
from bot.jobs.order import ACTIVE, Entry, Line
from bot.serve.pages.jobs import Jobs
from bot.serve.pages.people import Viewer, owns
from bot.serve.pages.words import log_line, moment

EVERY = 1.0  # seconds between two looks into the database
LONGEST = 1800.0  # seconds: then the browser comes back by itself, and is asked again who it is
MOST_LINES = 500  # in one event


class Live:
    """Streams of events; only so many at one time."""

    def __init__(self, jobs: Jobs, *, streams: int) -> None:
        self._jobs, self._left = jobs, streams

    async def events(self, request: Request, id_: str, after: int = 0) -> Response:
        """`job`: how it stands, as HTML; `lines`: more of its log, as JSON; `end`: there is no more to come."""
        session = self._jobs.look.enter(request)
        entry = await to_thread.run_sync(self._jobs.visible, id_, session.viewer)
        if self._left <= 0:
            raise HTTPException(503, "Too many browsers follow jobs just now.", headers={"Retry-After": "30"})
        last = request.headers.get("last-event-id", "")
        begin = int(last) if last.isascii() and last.isdecimal() and len(last) < 12 else max(0, after)
        stream = self._stream(entry, viewer=session.viewer, after=begin)
        return EventSourceResponse(stream, ping=15, send_timeout=30)

    async def _stream(self, entry: Entry, *, viewer: Viewer, after: int) -> AsyncIterator[ServerSentEvent]:
        self._left -= 1
        try:
            shown = ""
            with anyio.move_on_after(LONGEST):
                while True:
                    found = await to_thread.run_sync(self._look, entry, viewer, after)
                    if found is None:
                        yield ServerSentEvent(
                            event="trouble", data="The service cannot reach its database just now."
                        )
                    else:
                        entry, lines, text = found
                        if lines:
                            after = lines[-1].number
                            yield ServerSentEvent(event="lines", data=_told(lines, viewer), id=str(after))
                        if text != shown:
                            shown = text
                            yield ServerSentEvent(event="job", data=text)
                        if entry.state not in ACTIVE and len(lines) < MOST_LINES:
                            yield ServerSentEvent(event="end", data=entry.state)
                            return
                    await anyio.sleep(EVERY)
        finally:
            self._left += 1

    def _look(self, entry: Entry, viewer: Viewer, after: int) -> tuple[Entry, tuple[Line, ...], str] | None:
        """The job as it is now, the lines that are new, and its HTML; None while the database is gone."""
        key, desk = entry.order.job.key, self._jobs.desk
        try:
            entry = desk.entry(key) or entry
            lines = desk.lines(key, after=after, limit=MOST_LINES) if owns(viewer, entry) else ()
        except HostError:
            return None
        return entry, lines, self._jobs.look.part("_live.html", entry=entry)


def _told(lines: tuple[Line, ...], viewer: Viewer) -> str:
    told: list[Any] = [
        [line.number, moment(line.at), log_line(line, paths=viewer.operator)] for line in lines
    ]
    return json.dumps(told)
