"""Signing people in: the pages and answers of https://huggingface.co/docs/hub/oauth, with a client that tests register.

Whoever is at the browser is `state.oauth.person`; nobody has to click.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from .errors import HubError
from .exchange import Call, Reply, as_json


@dataclass
class OAuth:
    """The registered client, who sits at the browser, and codes and tokens that were given out."""

    client_id: str = "loopback-client"
    client_secret: str = "loopback-secret"
    redirect_uri: str = ""
    person: str = ""  # empty: they decline
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)  # what the ID token says in place of the truth


def authorize(call: Call) -> Reply:
    oauth = call.state.oauth
    if call.param("client_id") != oauth.client_id or call.param("redirect_uri") != oauth.redirect_uri:
        raise HubError(400, "Unknown client, or a redirect_uri that is not registered")
    if call.param("response_type") != "code" or call.param("code_challenge_method") != "S256":
        raise HubError(400, "Only the code flow with PKCE")
    if not oauth.person:
        return _back(oauth, error="access_denied", state=call.param("state"))
    code = secrets.token_urlsafe(16)
    kept = {name: call.param(name) for name in ("code_challenge", "nonce", "scope")}
    oauth.codes[code] = {**kept, "person": oauth.person}
    return _back(oauth, code=code, state=call.param("state"))


def _back(oauth: OAuth, **query: str) -> Reply:
    return Reply(302, {"Location": f"{oauth.redirect_uri}?{urlencode(query)}"})


def token(call: Call) -> Reply:
    """A code, once, for an access token and an ID token."""
    oauth = call.state.oauth
    given = {name: values[0] for name, values in call.form().items()}
    kept = oauth.codes.pop(given.get("code", ""), None)
    challenge = hashlib.sha256(given.get("code_verifier", "").encode()).digest()
    proof = base64.urlsafe_b64encode(challenge).rstrip(b"=").decode()
    if not _is_client(call) or kept is None or kept["code_challenge"] != proof:
        return as_json({"error": "invalid_grant"}, 400)
    if given.get("redirect_uri") != oauth.redirect_uri:
        return as_json({"error": "invalid_grant"}, 400)
    access = "hf_oauth_" + secrets.token_urlsafe(24)
    oauth.tokens[access] = kept["person"]
    claims = {
        "iss": call.state.url,
        "aud": oauth.client_id,
        "sub": _subject(kept["person"]),
        "exp": int(time.time()) + 3600,
        "nonce": kept["nonce"],
        **oauth.claims,
    }
    parts = [json.dumps({"alg": "none"}), json.dumps(claims), ""]
    id_token = ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts)
    return as_json(
        {
            "access_token": access,
            "token_type": "bearer",
            "expires_in": 3600,
            "id_token": id_token,
            "scope": kept["scope"],
        }
    )


def _is_client(call: Call) -> bool:
    oauth = call.state.oauth
    scheme, _, secret = call.headers.get("Authorization", "").partition(" ")
    wanted = base64.b64encode(f"{oauth.client_id}:{oauth.client_secret}".encode()).decode()
    return scheme == "Basic" and hmac.compare_digest(secret, wanted)


def userinfo(call: Call) -> Reply:
    person = call.state.oauth.tokens.get(call.headers.get("Authorization", "").removeprefix("Bearer "))
    if person is None:
        raise HubError(401, "Invalid access token")
    orgs = [
        {"sub": _subject(org), "name": org, "preferred_username": org, "picture": "", "roleInOrg": "write"}
        for org in call.state.accounts.orgs(person)
    ]
    about = {"sub": _subject(person), "name": person.title(), "preferred_username": person, "isPro": False}
    return as_json({**about, "profile": f"{call.state.url}/{person}", "picture": "", "orgs": orgs})


def _subject(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def answer(call: Call) -> Reply | None:
    """The reply, if the call is for us; its Authorization is not a user's token. A token for a workflow is not ours."""
    is_form = "form" in call.headers.get("Content-Type", "")
    match call.method, call.path:
        case "GET", "/oauth/authorize":
            return authorize(call)
        case "GET", "/oauth/userinfo":
            return userinfo(call)
        case "POST", "/oauth/token" if is_form:
            return token(call)
    return None
