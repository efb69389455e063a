"""Signing people in with their Hub account: authorization code with PKCE, of a client of our own.

https://huggingface.co/docs/hub/oauth; the rules are those of RFC 6749, RFC 7636 and OpenID Connect Core. What we ask
for is who somebody is, and nothing else: the access token reads their name once and is forgotten.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx2

from bot.errors import AccessError, HostError

SCOPES = "openid profile"
MOST_BYTES = 2**20  # of an answer
MOST_ORGS = 200
LEEWAY = 60.0  # seconds that clocks may differ


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A sign-in that was begun: what the browser has to bring back, and what nobody else knows."""

    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, kw_only=True)
class Person:
    """A user of the Hub, and the organisations that the Hub says they are in."""

    name: str
    orgs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HubOAuth:
    """Our client at the Hub. `redirect_uri` is fixed: where the Hub sends people back to."""

    endpoint: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    timeout: float = 15.0

    def begin(self) -> tuple[str, Pending]:
        """Where to send the browser, and what to keep until it comes back."""
        pending = Pending(
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
        )
        challenge = hashlib.sha256(pending.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "scope": SCOPES,
            "state": pending.state,
            "nonce": pending.nonce,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return f"{self.endpoint}/oauth/authorize?{urlencode(query)}", pending

    def finish(self, *, code: str, state: str, pending: Pending) -> Person:
        """Who came back.

        Raises AccessError (`sign-in-failed`) when it is not who left, HostError when the Hub fails.
        """
        if not hmac.compare_digest(state.encode(), pending.state.encode()):
            raise _failed("The answer does not belong to the sign-in that was begun here.")
        with httpx2.Client(timeout=self.timeout, follow_redirects=False) as client:
            tokens = self._tokens(client, code, pending)
            subject = self._subject(tokens.get("id_token"), pending)
            token = {"Authorization": f"Bearer {_text(tokens, 'access_token')}"}
            about = _answer(client, "GET", f"{self.endpoint}/oauth/userinfo", headers=token)
        if about.get("sub") != subject:
            raise _failed("The Hub's two answers are about two different people.")
        return Person(name=_text(about, "preferred_username"), orgs=_orgs(about))

    def _tokens(self, client: httpx2.Client, code: str, pending: Pending) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": self.client_id,
            "code_verifier": pending.verifier,
        }
        who = httpx2.BasicAuth(self.client_id, self.client_secret)
        return _answer(client, "POST", f"{self.endpoint}/oauth/token", data=form, auth=who)

    def _subject(self, id_token: Any, pending: Pending) -> str:
        """Whom the ID token is about.

        Its signature is not looked at: it comes from the Hub itself, over TLS (OpenID Connect Core, 3.1.3.7, 6).
        """
        claims = _claims(id_token)
        audience = claims.get("aud")
        for_us = self.client_id in (audience if isinstance(audience, list) else [audience])
        expires = claims.get("exp")
        fresh = isinstance(expires, int | float) and expires > time.time() - LEEWAY
        same = hmac.compare_digest(str(claims.get("nonce")).encode(), pending.nonce.encode())
        if not (for_us and fresh and same and str(claims.get("iss", "")).rstrip("/") == self.endpoint):
            raise _failed("The Hub's statement is not for this sign-in.")
        return _text(claims, "sub")


def _answer(client: httpx2.Client, method: str, url: str, **how: Any) -> dict[str, Any]:
    """The JSON object that the Hub answers."""
    try:
        response = client.request(method, url, **how)
    except httpx2.HTTPError as error:
        raise HostError(
            f"The Hub cannot be reached ({type(error).__name__}).",
            advice="Try to sign in again in a minute.",
            code="hub-unreachable",
        ) from error
    if response.status_code >= 500 or response.status_code == 429:
        raise HostError(
            f"The Hub answered with {response.status_code}.",
            advice="Try to sign in again in a minute.",
            code="hub-fault",
        )
    try:
        found = json.loads(response.content) if len(response.content) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if response.status_code != 200 or not isinstance(found, dict):
        raise _failed(f"The Hub did not accept it (status {response.status_code}).")
    return found


def _claims(id_token: Any) -> dict[str, Any]:
    parts = id_token.split(".") if isinstance(id_token, str) else []
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _failed("The Hub's statement cannot be read.")
    return found


def _orgs(about: dict[str, Any]) -> tuple[str, ...]:
    listed = about.get("orgs")
    names = (
        [org.get("preferred_username") for org in listed if isinstance(org, dict)]
        if isinstance(listed, list)
        else []
    )
    return tuple(name for name in names if isinstance(name, str) and name)[:MOST_ORGS]


def _text(found: dict[str, Any], key: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not value:
        raise _failed(f"The Hub's answer has no {key}.")
    return value


def _failed(sentence: str) -> AccessError:
    return AccessError(sentence, advice="Sign in again from the sign-in page.", code="sign-in-failed")
