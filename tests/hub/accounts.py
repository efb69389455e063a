"""Users, their organisations and tokens."""

import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import HubError
from .store import read_json, write_json


@dataclass(frozen=True)
class Account:
    """Who is calling, as one token says it."""

    name: str
    orgs: tuple[str, ...]
    role: str

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (self.name, *self.orgs)


class Accounts:
    """Kept in accounts.json below the root (tokens of a loopback test server, in the clear)."""

    def __init__(self, root: Path) -> None:
        self._path = root / "accounts.json"
        data: dict[str, Any] = read_json(self._path, {"users": {}, "tokens": {}})
        self._users: dict[str, list[str]] = data["users"]
        self._tokens: dict[str, dict[str, str]] = data["tokens"]

    def add(self, name: str, *, orgs: Iterable[str] = (), role: str = "write") -> str:
        """Create or extend a user; the answer is the token with that role."""
        known = self._users.setdefault(name, [])
        known.extend(org for org in orgs if org not in known)
        return self.token(name, role=role)

    def token(self, name: str, *, role: str = "write") -> str:
        if name not in self._users or role not in ("read", "write"):
            raise ValueError(f"no user {name!r} or no role {role!r}")
        wanted = {"user": name, "role": role}
        token = next((token for token, holder in self._tokens.items() if holder == wanted), None)
        if token is None:
            token = "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))
            self._tokens[token] = wanted
        write_json(self._path, {"users": self._users, "tokens": self._tokens})
        return token

    def lend(self, name: str) -> str:
        """A token of its own for a workflow that publishes for this user."""
        token = "hf_jwt_" + secrets.token_urlsafe(40)
        self._tokens[token] = {"user": name, "role": "write"}
        return token

    def exists(self, name: str) -> bool:
        return name in self._users

    def orgs(self, name: str) -> tuple[str, ...]:
        return tuple(self._users.get(name, ()))

    def identify(self, authorization: str | None) -> Account | None:
        """None for strangers; a token that nobody holds is an error of its own."""
        if not authorization:
            return None
        holder = self._tokens.get(authorization.removeprefix("Bearer ").strip())
        if holder is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return Account(holder["user"], self.orgs(holder["user"]), holder["role"])
