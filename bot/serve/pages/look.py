"""Templates and what goes around them: pages, their headers, and the page that says what went wrong."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from bot.errors import AccessError, HostError, InputError, MergeBotError, RefusedError
from bot.publish.escape import no_paths
from bot.serve.pages import words
from bot.serve.pages.people import may_ask, may_look
from bot.serve.pages.session import Session, Sessions
from bot.serve.pages.site import Site

STATIC = Path(__file__).with_name("static")
MEDIA = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {path.name: path.read_bytes() for path in sorted(STATIC.iterdir()) if path.suffix in MEDIA}
VERSION = hashlib.sha256(b"".join(FILES.values())).hexdigest()[:12]
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'none';"
    " base-uri 'none'; frame-ancestors 'none'; form-action 'self' {hub}"
)
HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATUS: dict[type[MergeBotError], int] = {
    InputError: 400,
    RefusedError: 403,
    AccessError: 403,
    HostError: 503,
}
TITLES = {
    400: "That does not work",
    401: "Sign in first",
    403: "Not for you",
    404: "Nothing here",
    405: "Nothing here",
    429: "Too often",
    503: "Not reachable just now",
}
BROKEN = "Something is broken on our side. The log of the service says what."
log = logging.getLogger("bot.serve")
TEMPLATES = Environment(
    loader=PackageLoader("bot.serve.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(words.FILTERS)
TEMPLATES.globals.update(words.NAMES, version=VERSION)


class Look:
    """Makes the pages of one site."""

    def __init__(self, site: Site) -> None:
        self.site, self.sessions = site, Sessions(site)

    def part(self, template: str, **said: Any) -> str:
        """A piece of a page, for streams and for htmx."""
        return TEMPLATES.get_template(template).render(site=self.site, time=time.time(), **said)

    def page(
        self, template: str, *, request: Request, session: Session, status: int = 200, **said: Any
    ) -> HTMLResponse:
        """A whole page; it sees to it that its forms can be sent."""
        viewer = session.viewer
        asks = may_ask(viewer, self.site)
        text = self.part(template, viewer=viewer, csrf=session.csrf, path=request.url.path, asks=asks, **said)
        response = HTMLResponse(text, status_code=status)
        if session.fresh:
            self.sessions.keep(response, session)
        return response

    def enter(self, request: Request) -> Session:
        """Who looks. Raises HTTPException 401 where strangers see nothing."""
        session = self.sessions.of(request)
        if not may_look(session.viewer, self.site):
            raise HTTPException(401, "These pages are for people who have signed in.")
        return session

    def wrong(self, request: Request, status: int, sentence: str, advice: str = "") -> Response:
        """The page that says what went wrong."""
        return self.page(
            "wrong.html",
            request=request,
            session=self.sessions.of(request),
            status=status,
            title=TITLES.get(status, "Something went wrong"),
            sentence=sentence,
            advice=advice,
        )

    def route(self) -> type[APIRoute]:
        """Routes whose answers have our headers, and whose errors are pages."""
        look = self

        class Route(APIRoute):
            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                answer = super().get_route_handler()

                async def handler(request: Request) -> Response:
                    try:
                        response = await answer(request)
                    except HTTPException as error:
                        response = look.wrong(request, error.status_code, str(error.detail))
                        response.headers.update(error.headers or {})
                    except RequestValidationError:
                        response = look.wrong(request, 400, "This address or form is not one of ours.")
                    except MergeBotError as error:
                        response = look.wrong(request, _status(error), no_paths(error.sentence), error.advice)
                    except Exception:
                        log.exception("a page is broken")
                        response = look.wrong(request, 500, BROKEN)
                    response.headers.setdefault(
                        "Content-Security-Policy", POLICY.format(hub=look.site.endpoint)
                    )
                    for name, value in HEADERS.items():
                        response.headers.setdefault(name, value)
                    return response

                return handler

        return Route


def static(name: str) -> Response:
    """A file of ours, which browsers keep: its address has its version. Raises HTTPException 404."""
    if name not in FILES:
        raise HTTPException(404, "There is no such file.")
    media = MEDIA[Path(name).suffix]
    return Response(
        FILES[name], media_type=media, headers={"Cache-Control": "public, max-age=31536000, immutable"}
    )


def _status(error: MergeBotError) -> int:
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
