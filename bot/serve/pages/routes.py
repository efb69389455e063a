"""Which address is answered by what. Include this router last: it answers every other address with a page, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from bot.jobs.desk import Desk
from bot.publish import page
from bot.publish.pictures import FOLDER, NAMES
from bot.serve.pages.ask import Ask
from bot.serve.pages.drawing import Drawings
from bot.serve.pages.jobs import Jobs
from bot.serve.pages.live import Live
from bot.serve.pages.look import Look, static
from bot.serve.pages.signing_in import SigningIn
from bot.serve.pages.site import Site

Answer = Callable[..., Any]


def router(desk: Desk, *, site: Site) -> APIRouter:
    """The pages of one service."""
    look = Look(site)
    jobs, ask, people = Jobs(desk, look), Ask(desk, look), SigningIn(look)
    live, reports = Live(jobs, streams=site.streams), Reports(jobs)
    made = APIRouter(route_class=look.route(), include_in_schema=False, default_response_class=HTMLResponse)
    pages: dict[str, Answer] = {
        "/": jobs.index,
        "/jobs/{id_}": jobs.job,
        "/jobs/{id_}/events": live.events,
        "/jobs/{id_}/log": jobs.log,
        "/jobs/{id_}/report": reports.report,
        "/jobs/{id_}/pictures/{name}.png": reports.picture,
        "/ask": ask.form,
        "/sign-in": people.form,
        "/sign-in/callback": people.callback,
        "/static/{name}": static,
        "/{path:path}": nothing,
    }
    forms: dict[str, Answer] = {
        "/jobs/{id_}/cancel": jobs.cancel,
        "/jobs/{id_}/retry": jobs.retry,
        "/ask": ask.send,
        "/ask/reading": ask.reading,
        "/sign-in/hub": people.to_hub,
        "/sign-in/token": people.by_token,
        "/sign-out": people.sign_out,
    }
    for method, answers in {"GET": pages, "POST": forms}.items():
        for path, answer in answers.items():
            made.add_api_route(path, answer, methods=[method], response_model=None)
    return made


class Reports:
    """The report of a job: the page that is published with the model, and its pictures."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs, self._drawings = jobs, Drawings()

    def report(self, request: Request, id_: str) -> Response:
        """The whole report, as one page that can be saved."""
        entry = self._jobs.visible(id_, self._jobs.look.enter(request).viewer)
        outcome = entry.outcome
        if outcome is None or outcome.plan is None or outcome.report is None:
            raise HTTPException(404, "This job has no report.")
        drawn, endpoint = self._drawings.of(entry), self._jobs.look.site.endpoint
        text = page.as_html(outcome.plan, outcome.report, drawn=drawn, endpoint=endpoint)
        return HTMLResponse(
            text, headers={"Content-Security-Policy": f"{page.POLICY}; frame-ancestors 'none'"}
        )

    def picture(self, request: Request, id_: str, name: str) -> Response:
        """One picture of it."""
        entry = self._jobs.visible(id_, self._jobs.look.enter(request).viewer)
        found = self._drawings.of(entry).get(f"{FOLDER}/{name}.png") if name in NAMES else None
        if found is None:
            raise HTTPException(404, "There is no such picture.")
        return Response(found, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def nothing(path: str) -> Response:
    """No page. Raises HTTPException 404."""
    raise HTTPException(404, f"There is no page /{path[:100]} here.")
