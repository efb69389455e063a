"""Queue and history, and one job: what is shown of them to whom, and stopping and repeating."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args
from urllib.parse import urlencode
from zlib import crc32

from fastapi import Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, StreamingResponse

from bot.jobs.desk import Desk
from bot.jobs.order import ACTIVE, Entry, Line, State
from bot.publish.pictures import pictures
from bot.serve.pages.look import Look
from bot.serve.pages.people import Viewer, as_of_now, may_repeat, owns, sees
from bot.serve.pages.session import check_form
from bot.serve.pages.words import log_line

PAGE = 30
MOST_LOOKED_AT = 2000  # jobs that are gone through for a page of those that somebody may see
TAIL = 300  # lines of the log on a page
AT_ONCE = 1000
LONGEST_SEARCH = 200
GROUPS: dict[str, frozenset[State]] = {
    "": frozenset(),
    "active": ACTIVE,
    **{state: frozenset({state}) for state in get_args(State) if state not in ACTIVE},
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a list is to show: a group of states, a text, and only what is older than `before`."""

    state: str = ""
    text: str = ""
    before: float | None = None

    def link(self, **other: object) -> str:
        """The address of this list, or of one like it, within the site."""
        asked = {"state": self.state, "q": self.text, "before": self.before or "", **other}
        query = urlencode({name: value for name, value in asked.items() if value != ""})
        return f"/?{query}" if query else "/"


class Jobs:
    """The pages about jobs."""

    def __init__(self, desk: Desk, look: Look) -> None:
        self.desk, self.look = desk, look

    def index(
        self, request: Request, state: str = "", q: str = "", before: float | None = None, seen: str = ""
    ) -> Response:
        """The newest jobs. For htmx only the list, and nothing at all when the browser has `seen` it as it is."""
        session = self.look.enter(request)
        shown = Shown(state=state if state in GROUPS else "", text=q.strip()[:LONGEST_SEARCH], before=before)
        found = list(self._visible(shown, session.viewer))
        entries, older = found[:PAGE], found[PAGE - 1].created if len(found) > PAGE else None
        mark = _mark(entries)
        if seen and seen == mark:
            return Response(status_code=204)
        said: dict[str, Any] = {
            "entries": entries,
            "shown": shown,
            "older": older,
            "mark": mark,
            "groups": GROUPS,
        }
        if request.headers.get("hx-request"):
            return HTMLResponse(self.look.part("_list.html", viewer=session.viewer, **said))
        return self.look.page(
            "index.html", request=request, session=session, counts=self._counts(session.viewer), **said
        )

    def job(self, request: Request, id_: str) -> Response:
        """One job."""
        session = self.look.enter(request)
        entry = self.visible(id_, session.viewer)
        owner = owns(session.viewer, entry)
        tail = self._tail(entry) if owner else []
        evidence = entry.outcome.report.evidence if entry.outcome and entry.outcome.report else None
        return self.look.page(
            "job.html",
            request=request,
            session=session,
            entry=entry,
            owner=owner,
            repeats=may_repeat(session.viewer, entry, self.look.site),
            lines=[(line, log_line(line, paths=session.viewer.operator)) for line in tail],
            pictures=pictures(evidence) if evidence else (),
        )

    def log(self, request: Request, id_: str) -> Response:
        """The whole log as text."""
        session = self.look.enter(request)
        entry = self.visible(id_, session.viewer)
        if not owns(session.viewer, entry):
            raise HTTPException(403, "The log is for whoever asked for the job, and for the operator.")
        texts = (log_line(line, paths=session.viewer.operator) + "\n" for line in self._lines(entry))
        return StreamingResponse(texts, media_type=PlainTextResponse.media_type + "; charset=utf-8")

    def cancel(self, request: Request, id_: str, csrf: Annotated[str, Form()] = "") -> Response:
        """Calls a job off."""
        entry, viewer = self._steered(request, id_, csrf)
        self.desk.cancel(entry.order.job.key, by=viewer.called)
        return RedirectResponse(f"{self.look.site.path}/jobs/{entry.order.job.key}", 303)

    def retry(self, request: Request, id_: str, csrf: Annotated[str, Form()] = "") -> Response:
        """Begins an ended job anew."""
        entry, viewer = self._steered(request, id_, csrf)
        if not may_repeat(viewer, entry, self.look.site):
            raise HTTPException(403, "You may not ask this service for that work, or not any more.")
        order = as_of_now(entry.order, self.look.site)
        if order == entry.order:
            self.desk.retry(order.job.key, by=viewer.called)
        else:
            self.desk.enqueue(order)
        return RedirectResponse(f"{self.look.site.path}/jobs/{entry.order.job.key}", 303)

    def visible(self, id_: str, viewer: Viewer) -> Entry:
        """The job. Raises HTTPException 404 where there is none that they may know of."""
        entry = self.desk.entry(id_)
        if entry is None or not sees(viewer, entry):
            raise HTTPException(404, "There is no such job, or it is not for you to see.")
        return entry

    def _counts(self, viewer: Viewer) -> dict[str, int]:
        """How many jobs are in each group of states: for operators, since it counts what others may not see."""
        counts = self.desk.counts() if viewer.operator else {}
        return {
            name: sum(count for state, count in counts.items() if not states or state in states)
            for name, states in GROUPS.items()
        }

    def _steered(self, request: Request, id_: str, csrf: str) -> tuple[Entry, Viewer]:
        session = self.look.enter(request)
        check_form(request, session, csrf)
        entry = self.visible(id_, session.viewer)
        if not owns(session.viewer, entry):
            raise HTTPException(403, "Only whoever asked for a job, or the operator, may stop or repeat it.")
        return entry, session.viewer

    def _visible(self, shown: Shown, viewer: Viewer) -> Iterator[Entry]:
        """One more than a page of them. What strangers search for is looked for in nothing that they do not see."""
        before, kept, looked_at = shown.before, 0, 0
        while kept <= PAGE and looked_at < MOST_LOOKED_AT:
            found = self.desk.entries(
                states=GROUPS[shown.state],
                text=shown.text if viewer.operator else "",
                before=before,
                limit=PAGE + 1 if viewer.operator else 200,
            )
            for entry in found:
                if sees(viewer, entry) and (viewer.operator or _matches(entry, shown.text, viewer)):
                    kept += 1
                    yield entry
                    if kept > PAGE:
                        return
            if not found or viewer.operator:
                return
            looked_at += len(found)
            before = found[-1].created

    def _lines(self, entry: Entry) -> Iterator[Line]:
        after = 0
        while lines := self.desk.lines(entry.order.job.key, after=after, limit=AT_ONCE):
            yield from lines
            after = lines[-1].number

    def _tail(self, entry: Entry) -> list[Line]:
        return list(deque(self._lines(entry), maxlen=TAIL))


def _matches(entry: Entry, text: str, viewer: Viewer) -> bool:
    job, outcome, request = entry.order.job, entry.outcome, entry.order.request
    seen = [job.what]
    if outcome is not None and outcome.publication is not None:
        seen.append(outcome.publication.destination.location)
    if owns(viewer, entry) and request.destination is not None:
        seen.append(request.destination.location)
    return text.casefold() in "\n".join(seen).casefold()


def _mark(entries: list[Entry]) -> str:
    """What changes when the list does."""
    states = [(e.order.job.key, e.state, e.attempt, e.now.stage, e.now.done, e.now.total) for e in entries]
    return format(crc32(repr(states).encode()), "08x")
