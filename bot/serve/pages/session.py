"""Who a browser is, from a signed cookie; nothing is kept on the server. And the token that its forms carry."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import HTTPException, Request, Response
from itsdangerous import BadData, URLSafeTimedSerializer

from bot.clients.hub_oauth import Pending, Person
from bot.serve.pages.people import Viewer
from bot.serve.pages.site import Site

LASTS = 12 * 3600  # seconds until one has to sign in again
PATIENCE = 600  # seconds that a sign-in at the Hub may take


@dataclass(frozen=True, kw_only=True)
class Session:
    """A browser: who looks, and what its forms have to bring. `fresh`: it does not know yet."""

    viewer: Viewer = field(default_factory=Viewer)
    csrf: str
    fresh: bool = False


class Sessions:
    """Reads and writes the cookies of one site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._signed = URLSafeTimedSerializer(site.secret, salt="merge-bot session")
        self._begun = URLSafeTimedSerializer(site.secret, salt="merge-bot sign-in")
        prefix = "__Host-" if site.secure else ""  # such a cookie cannot come from a neighbouring host
        self._name, self._waiting = f"{prefix}merge-bot", f"{prefix}merge-bot-sign-in"

    def of(self, request: Request) -> Session:
        """The browser's session; a new one of a stranger where it has none that is ours."""
        data = _loaded(self._signed, request.cookies.get(self._name), LASTS)
        if data is None:
            return Session(csrf=secrets.token_urlsafe(24), fresh=True)
        name, orgs = str(data.get("name", "")), tuple(data.get("orgs", ()))
        knows = bool(data.get("key")) and hmac.compare_digest(str(data["key"]), self._key())
        listed = bool(name) and name.casefold() in {user.casefold() for user in self._site.operators}
        viewer = Viewer(name=name, orgs=orgs, operator=knows or listed)
        return Session(viewer=viewer, csrf=str(data["csrf"]))

    def keep(self, response: Response, session: Session) -> None:
        """The browser remembers a stranger's token of forms."""
        self._write(response, {"csrf": session.csrf})

    def sign_in(self, response: Response, person: Person | None) -> None:
        """The browser is theirs, None the operator's; all in the cookie is new, so nobody can have planted it."""
        told: dict[str, Any] = {"csrf": secrets.token_urlsafe(24)}
        told |= {"key": self._key()} if person is None else {"name": person.name, "orgs": person.orgs}
        self._write(response, told)

    def sign_out(self, response: Response) -> None:
        """The browser forgets."""
        response.delete_cookie(self._name, path="/", secure=self._site.secure, httponly=True, samesite="lax")

    def wait(self, response: Response, pending: Pending) -> None:
        """The browser leaves for the Hub."""
        self._set(response, self._waiting, self._begun.dumps(asdict(pending)), PATIENCE)

    def returned(self, request: Request) -> Pending | None:
        """What it left with; None when it never left from here, or long ago."""
        data = _loaded(self._begun, request.cookies.get(self._waiting), PATIENCE)
        return None if data is None else Pending(**data)

    def arrive(self, response: Response) -> None:
        """A sign-in is used once."""
        response.delete_cookie(
            self._waiting, path="/", secure=self._site.secure, httponly=True, samesite="lax"
        )

    def is_operators(self, token: str) -> bool:
        """Whether this is the operator's token, in constant time. None is set: nothing is."""
        known = self._site.operator_token
        digests = (hashlib.sha256(text.encode()).digest() for text in (token, known))
        return hmac.compare_digest(*digests) and bool(known)

    def _key(self) -> str:
        """What a session of the operator's holds in the token's place: a new token ends it."""
        text = self._site.operator_token.encode()
        return (
            hmac.new(self._site.secret.encode(), text, hashlib.sha256).hexdigest()
            if text
            else secrets.token_hex()
        )

    def _write(self, response: Response, data: dict[str, Any]) -> None:
        self._set(response, self._name, self._signed.dumps(data), LASTS)

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            name, value, max_age=seconds, path="/", secure=self._site.secure, httponly=True, samesite="lax"
        )


def check_form(request: Request, session: Session, given: str) -> None:
    """A POST comes from a page of ours. Raises HTTPException 403."""
    same = not session.fresh and hmac.compare_digest(given.encode(), session.csrf.encode())
    if not same or request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise HTTPException(
            403, "This form is not from this site, or too old. Go back, reload the page, send it again."
        )


def _loaded(serializer: URLSafeTimedSerializer, text: str | None, seconds: int) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        data = serializer.loads(text, max_age=seconds)
    except BadData:
        return None
    return data if isinstance(data, dict) else None
