"""Signing in, by the Hub or with the operator's token, and out."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from threading import Lock
from typing import Annotated

from fastapi import Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from bot.clients.hub_oauth import HubOAuth, Person
from bot.errors import AccessError
from bot.serve.pages.look import Look
from bot.serve.pages.session import check_form

TRIES, ALL_TRIES, WINDOW = (
    5,
    100,
    60.0,
)  # wrong tokens from one address and from all of them, in so many seconds
MOST_ADDRESSES = 1000
UNGUESSABLE = 32  # characters: of a token as long as this nobody finds out anything by trying


class Guesses:
    """Wrong tokens of late, by address: few people mistype five times in a minute."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque()

    def check(self, address: str) -> None:
        """Raises HTTPException 429 after too many."""
        with self._lock:
            mine = self._recent(self._wrong.get(address, deque()))
            if len(mine) >= TRIES or len(self._recent(self._all)) >= ALL_TRIES:
                raise HTTPException(
                    429, "Too many wrong tokens. Wait a minute.", headers={"Retry-After": str(int(WINDOW))}
                )

    def wrong(self, address: str) -> None:
        """One more."""
        with self._lock:
            self._wrong.setdefault(address, deque()).append(time.monotonic())
            self._wrong.move_to_end(address)
            self._all.append(time.monotonic())
            while len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def _recent(self, times: deque[float]) -> deque[float]:
        while times and times[0] < time.monotonic() - WINDOW:
            times.popleft()
        return times


class SigningIn:
    """The pages about who somebody is."""

    def __init__(self, look: Look) -> None:
        self.look, self.sessions = look, look.sessions
        self._guesses = Guesses()
        site, client = look.site, look.site.client
        self._hub: HubOAuth | None = None
        if client is not None:
            self._hub = HubOAuth(
                endpoint=site.endpoint,
                client_id=client.id,
                client_secret=client.secret,
                redirect_uri=site.callback,
            )

    def form(self, request: Request) -> Response:
        """The two ways in."""
        return self._page(request)

    def to_hub(self, request: Request, csrf: Annotated[str, Form()] = "") -> Response:
        """Off to the Hub."""
        check_form(request, self.sessions.of(request), csrf)
        if self._hub is None:
            raise HTTPException(404, "Signing in with the Hub is not set up here.")
        url, pending = self._hub.begin()
        response = RedirectResponse(url, 303)
        self.sessions.wait(response, pending)
        return response

    def callback(self, request: Request, code: str = "", state: str = "", error: str = "") -> Response:
        """Back from the Hub."""
        response: Response
        try:
            person = self._back(request, code="" if error else code, state=state)
        except AccessError as refused:
            response = self._page(request, wrong=f"{refused.sentence} {refused.advice}", status=403)
        else:
            response = RedirectResponse(f"{self.look.site.path}/", 303)
            self.sessions.sign_in(response, person)
        self.sessions.arrive(response)
        return response

    def _back(self, request: Request, *, code: str, state: str) -> Person:
        pending = self.sessions.returned(request)
        if pending is None or self._hub is None:
            raise AccessError(
                "No sign-in was begun in this browser, or it took too long.",
                advice="Begin again.",
                code="sign-in-failed",
            )
        if not code:
            raise AccessError(
                "The Hub was not allowed to say who you are.", advice="Begin again.", code="sign-in-failed"
            )
        return self._hub.finish(code=code, state=state, pending=pending)

    def by_token(
        self,
        request: Request,
        csrf: Annotated[str, Form()] = "",
        token: Annotated[str, Form(max_length=500)] = "",
    ) -> Response:
        """The operator."""
        check_form(request, self.sessions.of(request), csrf)
        address, token = request.client.host if request.client else "", token.strip()
        is_right = self.sessions.is_operators(token)
        if not is_right or len(token) < UNGUESSABLE:  # behind a proxy, strangers have the operator's address
            self._guesses.check(address)
        if not is_right:
            self._guesses.wrong(address)
            return self._page(request, mistyped="This is not the operator's token.", status=403)
        response = RedirectResponse(f"{self.look.site.path}/", 303)
        self.sessions.sign_in(response, None)
        return response

    def sign_out(self, request: Request, csrf: Annotated[str, Form()] = "") -> Response:
        """Nobody any more."""
        check_form(request, self.sessions.of(request), csrf)
        response = RedirectResponse(f"{self.look.site.path}/sign-in", 303)
        self.sessions.sign_out(response)
        return response

    def _page(self, request: Request, *, wrong: str = "", mistyped: str = "", status: int = 200) -> Response:
        said = {"wrong": wrong, "mistyped": mistyped}
        return self.look.page(
            "sign_in.html", request=request, session=self.sessions.of(request), status=status, **said
        )
